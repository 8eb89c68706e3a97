"""A pretrained chat model with a group of three query heads: `make test-real`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import PreTrainedModel

from headprobe.allocators import BudgetSize, allocate
from headprobe.compression import HeadBudgetCache
from headprobe.errors import Interrupted
from headprobe.formats import FORMATS, export_scores
from headprobe.formats.import_run import KnownModel, import_run
from headprobe.models.loading import LoadedModel, load_model
from headprobe.prompts.spec import CaseSpec
from headprobe.prompts.style import PromptOptions
from headprobe.runs.case_runner import observe_cases
from headprobe.runs.draw import draw_cases
from headprobe.scores import HeadScores
from headprobe.tasks import TASKS
from tests._support.command_line import headprobe, succeed
from tests._support.dense_cache import DenseCache
from tests._support.reference import plain_observation

pytestmark = pytest.mark.real

GRID = ["--prompt", "prefix", "--lengths", "250", "--depths", "0,100"]
FACTS = [
    ("What is the secret code of the harbour office?", "4817"),
    ("What is the name of the baker's old horse?", "Clementine"),
    ("What is the colour of the door of the lighthouse?", "orange"),
]
"""Answers that so small a model finds."""
CASES = 6


@pytest.mark.parametrize("task", ["retrieval", "r2"])
def test_scores_and_answers_equal_the_plain_procedure_case_by_case(
    smollm2: LoadedModel, plain_smollm2: PreTrainedModel, task: str
) -> None:
    probed = TASKS[task].measuring(["all"])
    spec = CaseSpec(lengths=(250,), depths=(50.0,), limit=2)
    drawn = draw_cases(smollm2, probed.probe, spec, prompt=PromptOptions(style="prefix"))
    for seen in observe_cases(smollm2, drawn.cases, probed):
        case = drawn.cases[seen.case_id]
        generated, scores = plain_observation(plain_smollm2, smollm2, case, probed)
        assert seen.generated_ids == generated
        assert seen.scores.keys() == scores.keys()
        for name, expected in scores.items():
            # Logits, which locos is in, are not within 0 and 1.
            rtol = 1e-5 if name == "locos" else 0
            np.testing.assert_allclose(
                seen.scores[name], expected, atol=1e-4, rtol=rtol, err_msg=name
            )


@contextmanager
def counting(model: PreTrainedModel, stop_at: int | None = None) -> Iterator[list[int]]:
    """Count forward passes; Ctrl-C comes at the start of number ``stop_at``."""
    passes: list[int] = []

    def count(*_: Any) -> None:
        passes.append(len(passes))
        if len(passes) == stop_at:
            raise KeyboardInterrupt

    hook = model.register_forward_pre_hook(count)
    try:
        yield passes
    finally:
        hook.remove()


@pytest.fixture(scope="module")
def score(smollm2_once: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that scores the model on six cases."""
    needles = tmp_path_factory.mktemp("needles") / "facts.jsonl"
    lines = []
    for question, answer in FACTS:
        told = f"{question.removeprefix('What is ').removesuffix('?').capitalize()} is {answer}."
        needle = {"needle": told, "question": question, "real_needle": told, "answer": answer}
        lines.append(json.dumps(needle) + "\n")
    needles.write_text("".join(lines))
    model = ["--model", smollm2_once.name, "--needles", str(needles)]
    return ["score", "--task", "retrieval", *model, *GRID, "--prefill-chunk", "600"]


@pytest.fixture(scope="module")
def scored(
    smollm2_once: LoadedModel, score: list[str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, int]:
    """The directory of a run of six cases, and the forward passes that it took; look only."""
    out = tmp_path_factory.mktemp("smollm2") / "run"
    with counting(smollm2_once.model) as passes:
        succeed(*score, "--out", out)
    return out, len(passes)


def test_an_interrupted_run_that_goes_on_ends_as_one_that_was_not(
    smollm2_once: LoadedModel, score: list[str], scored: tuple[Path, int], tmp_path: Path
) -> None:
    whole, passes = scored
    arguments = [*score, "--out", tmp_path]
    # The cases of a pack are answered together, so the stop comes in the last of three packs.
    with counting(smollm2_once.model, stop_at=passes - 1):
        assert isinstance(headprobe(*arguments).error, Interrupted)
    report = json.loads((tmp_path / "run.json").read_text())
    assert report["status"] == "stopped"
    assert 0 < report["observed"] < CASES
    with counting(smollm2_once.model) as left:
        succeed(*arguments)
    assert 0 < len(left) < passes
    tables = [pd.read_parquet(out / "cases.parquet") for out in (whole, tmp_path)]
    pd.testing.assert_frame_equal(*tables)
    assert len(tables[0]) == CASES
    runs = [HeadScores.load(out) for out in (whole, tmp_path)]
    assert runs[0].needles == runs[1].needles
    np.testing.assert_allclose(*(run.per_case["retrieval"] for run in runs), rtol=0, atol=1e-6)


def order(scores: np.ndarray) -> list[int]:
    """Heads from the best to the worst, equal ones in the order of layer and head."""
    return np.argsort(-scores, axis=None, kind="stable").tolist()


def same_cases(run: HeadScores, read: HeadScores) -> None:
    np.testing.assert_allclose(read.per_case["headkv"], run.per_case["retrieval"], rtol=1e-6)


def same_means(run: HeadScores, read: HeadScores) -> None:
    np.testing.assert_allclose(read.mean("retrieval"), run.mean("retrieval"), rtol=1e-5, atol=1e-7)


def same_order(run: HeadScores, read: HeadScores) -> None:
    assert order(of_kv_heads(read)) == order(of_kv_heads(run))


def same_fractions(run: HeadScores, read: HeadScores) -> None:
    means = of_kv_heads(run, np.mean)
    np.testing.assert_allclose(of_kv_heads(read), means / means.sum(), rtol=1e-5)


def same_chosen(run: HeadScores, read: HeadScores) -> None:
    best = order(of_kv_heads(run))[:14]
    assert np.flatnonzero(read.mean("induction")[:, ::3]).tolist() == sorted(best)


def of_kv_heads(run: HeadScores, reduce: Callable[..., np.ndarray] = np.max) -> np.ndarray:
    """The only or first measure of KV heads, ``[layer, KV head]``."""
    [measure, *_] = run.measures
    return reduce(run.mean(measure).astype(np.float64).reshape(30, 3, 3), axis=2)


ROUND_TRIPS: dict[str, tuple[str, dict[str, Any], Callable[[HeadScores, HeadScores], None]]] = {
    "headkv": ("heads.json", {}, same_cases),
    "duo": ("pattern", {}, same_order),
    "kvzip": ("heads.pt", {}, same_order),
    "attention-matching": ("shares.json", {"beta": 1.0}, same_fractions),
    "razor": ("heads.pt", {"sparsity": 1 - 14 / 90}, same_chosen),
    "csv": ("heads.csv", {}, same_means),
    "safetensors": ("heads.safetensors", {}, same_means),
}


def test_all_formats_that_are_read_make_the_round_trip() -> None:
    both = {name for name, entry in FORMATS.items() if entry.read and entry.write_scores}
    assert ROUND_TRIPS.keys() == both


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_scores_come_back_from_every_format(
    name: str, smollm2: LoadedModel, scored: tuple[Path, int], tmp_path: Path
) -> None:
    run = HeadScores.load(scored[0])
    assert run.mean("retrieval").shape == (30, 9)
    file, options, agree = ROUND_TRIPS[name]
    export_scores(run, tmp_path / file, to=name, **options)
    known = KnownModel(id=run.layout.id, layers=30, heads=9, kv_heads=3, head_dim=64)
    read, _ = import_run(tmp_path / file, tmp_path / "run", source=name, known=known)
    assert read.layout.to_json() | {"architecture": "llama"} == run.layout.to_json()
    agree(run, read)


@torch.no_grad()
def test_decoding_under_a_budget_equals_a_dense_cache_with_a_mask(
    smollm2: LoadedModel, scored: tuple[Path, int]
) -> None:
    run, model, steps = HeadScores.load(scored[0]), smollm2.model, 4
    budget = allocate(run.mean("retrieval"), run.layout, budget=BudgetSize(tokens=32))
    assert len(np.unique(budget.tokens)) > 6
    text = pd.read_parquet(scored[0] / "cases.parquet").input_ids[0]
    prompt = torch.tensor(text[-96:])[None]
    dense = DenseCache(model, budget)
    with HeadBudgetCache(model, budget, compress_at=prompt.shape[1]) as cache:
        tokens = prompt
        for _ in range(steps):
            logits = model(tokens, past_key_values=cache).logits
            torch.testing.assert_close(logits, dense(tokens), rtol=1e-4, atol=1e-3)
            if tokens is prompt:
                dense.compress()
            np.testing.assert_array_equal(
                cache.entries,
                [[[len(kept) for kept in heads] for heads in dense.shown[i]] for i in range(30)],
            )
            tokens = logits[:, -1:].argmax(dim=-1)
    assert (cache.entries < prompt.shape[1]).mean() > 0.5


@torch.no_grad()
def test_a_directory_saved_from_the_gguf_file_is_the_same_model(
    smollm2: LoadedModel, tmp_path: Path
) -> None:
    smollm2.model.save_pretrained(tmp_path)
    smollm2.tokenizer.save_pretrained(tmp_path)
    saved = load_model(str(tmp_path), device="cpu", dtype="float32")
    turns = [{"role": "user", "content": "Who binds books in the old town?"}]
    prompts = [
        one.tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
        for one in (smollm2, saved)
    ]
    assert torch.equal(*prompts)
    assert torch.equal(saved.model(prompts[0]).logits, smollm2.model(prompts[0]).logits)
    assert saved.fingerprint == smollm2.fingerprint
    ends = [one.model.generation_config.eos_token_id for one in (smollm2, saved)]
    assert ends[0] == ends[1]
    assert ends[0] is not None

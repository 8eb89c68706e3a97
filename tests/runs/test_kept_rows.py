from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from headprobe.errors import HeadprobeError
from headprobe.models.loading import LoadedModel, load_model
from headprobe.prompts.case import Case
from headprobe.prompts.spec import CaseSpec
from headprobe.runs.case_runner import observe_cases
from headprobe.runs.directory import ROWS, read_cases
from headprobe.runs.kept_rows import (
    BINS,
    FORMAT_VERSION,
    MOST_STEPS,
    KeptCase,
    KeptRows,
    choose_cases,
    read_rows,
)
from headprobe.runs.memory import ChunkSizes
from headprobe.runs.observation import Observation
from headprobe.runs.observe_rows import observe_rows, token_texts
from headprobe.runs.plan import prepare
from headprobe.runs.score import score
from headprobe.tasks import TASKS
from tests._support.command_line import succeed
from tests._support.reference import attention_layers, cases_of, tiny

HEADS = ((1, 2), (0, 0))


@pytest.fixture(scope="module")
def nano() -> LoadedModel:
    return load_model("nano", device="cpu", dtype="float32")


@pytest.mark.parametrize("architecture", ["llama", "gemma3_text", "gpt_oss", "jamba", "lfm2"])
@pytest.mark.parametrize("task", ["r2", "razor"])
def test_kept_rows_are_those_of_reading_the_whole_with_eager_attention(
    architecture: str, task: str
) -> None:
    loaded, plain = tiny(architecture)
    if task == "r2":
        cases = cases_of(loaded, "r2", 2)
    else:
        spec = CaseSpec(lengths=(96,), limit=1)
        cases = list(prepare(loaded, TASKS[task], spec, out=Path("unused")).cases)
    case = cases[-1]
    (seen,) = observe_cases(loaded, cases, TASKS[task], wanted=[case.case_id])
    layers = attention_layers(loaded)
    heads = [(layers[0], 1), (layers[-1], 0)]
    (kept,) = observe_rows(
        loaded,
        cases,
        [seen],
        {case.case_id: "best"},
        probe=TASKS[task].probe,
        heads=heads,
        chunk_sizes=ChunkSizes(prefill_chunk=48, row_bytes=40_000),
    )
    read = [*case.input_ids, *seen.generated_ids[:-1]]
    with torch.no_grad():
        attentions = plain(torch.tensor([read]), output_attentions=True).attentions
    count = kept.top_tokens.shape[1]
    steps = slice(kept.first_query, kept.first_query + count)
    rows = torch.stack([layer[0, :, steps] for layer in attentions]).double().numpy()
    assert rows.shape[2] == count > 0
    check_bins(kept, rows, layers, len(read))
    for place, (layer, head) in enumerate(heads):
        for step, row in enumerate(rows[layers.index(layer), head]):
            weights = kept.top_weights[place, step].astype(float)
            np.testing.assert_allclose(weights, np.sort(row)[::-1][: len(weights)], atol=1e-3)
            at = kept.top_tokens[place, step]
            np.testing.assert_allclose(row[at], weights, atol=1e-3)


def check_bins(kept: KeptCase, rows: np.ndarray, layers: list[int], tokens: int) -> None:
    of_token = np.arange(tokens) * BINS // tokens
    sums = np.zeros((*rows.shape[:-1], BINS))
    for token in range(tokens):
        sums[..., of_token[token]] += rows[..., token]
    stored = (kept.bins.astype(float) / 255) ** 2
    mean = sums[:, :, slice(*kept.counted)].mean(axis=2)
    np.testing.assert_allclose(stored[layers], mean, atol=0.006)


def test_a_case_is_kept_with_its_texts_and_places(nano: LoadedModel, tmp_path: Path) -> None:
    run = prepare(
        nano, TASKS["r2"], CaseSpec(lengths=(160,), depths=(0.0, 60.0), limit=8), out=tmp_path
    )
    assert score(nano, run, keep_rows=3) is not None
    rows = read_rows(tmp_path)
    assert rows is not None
    assert len(rows.cases) == 3
    for kept in rows.cases:
        case = run.cases[kept.case_id]
        assert "".join(kept.tokens[: case.length]).endswith("Answer:")
        assert kept.tokens[slice(*kept.span)] == kept.tokens[case.span]
        assert kept.answer in "".join(kept.tokens[slice(*kept.span)])
        assert kept.wrong_answer is not None
        assert kept.wrong_answer in "".join(kept.tokens[kept.needle[0] :])
        assert kept.bins.shape == (6, 8, BINS)
        assert kept.counted == (kept.step_start, kept.step_end)
    table = read_cases(tmp_path, ["case_id", "response"])
    assert table is not None
    said = dict(zip(table["case_id"], table["response"], strict=True))
    assert all(said[kept.case_id] in "".join(kept.chosen) for kept in rows.cases)


def test_the_answers_steps_are_among_those_that_are_kept() -> None:
    loaded, _ = tiny("llama")
    case = cases_of(loaded, "r2", 1)[0]
    long = observation(case.case_id, passed=True, strength=1.0)
    ids = tuple(case.input_ids[:50]) * 8
    seen = Observation(**{**vars(long), "generated_ids": ids, "step_start": 110, "step_end": 114})
    (kept,) = observe_rows(
        loaded,
        [case],
        [seen],
        {0: "best"},
        probe=TASKS["r2"].probe,
        heads=HEADS,
        chunk_sizes=ChunkSizes(),
    )
    written = loaded.tokenizer.decode(list(ids[110:114]))
    assert "".join(kept.chosen[kept.step_start : kept.step_end]).strip() == written.strip()
    assert len(kept.chosen) == kept.top_tokens.shape[1] == MOST_STEPS < len(ids)


def observation(case_id: int, *, passed: bool, strength: float) -> Observation:
    return Observation(
        case_id=case_id,
        generated_ids=(1, 2),
        step_start=0,
        step_end=2,
        response="",
        score=100.0 if passed else float(case_id),
        scores={"r2": np.full((2, 4), strength)},
    )


def case_at(case_id: int, position: int) -> Case:
    return Case(
        case_id=case_id,
        needle_id=0,
        length=200,
        depth=0.0,
        position=position,
        input_ids=(1,) * 200,
        span_start=position,
        span_end=position + 1,
        answer="",
        answer_ids=(1,),
    )


def test_failed_best_worst_and_deepest_cases_take_turns() -> None:
    cases = [case_at(i, position) for i, position in enumerate([10, 20, 30, 150, 50, 60])]
    strengths = [0.0, 0.0, 0.9, 0.5, 0.1, 0.7]
    seen = [observation(i, passed=i > 1, strength=s) for i, s in enumerate(strengths)]
    chosen = choose_cases(cases, seen, "r2", count=5)
    assert chosen == {0: "failed", 2: "best", 4: "worst", 3: "deepest", 1: "failed"}
    assert len(choose_cases(cases, seen, "r2", count=64)) == len(cases)


def test_where_nothing_passed_failed_and_deepest_cases_are_kept() -> None:
    cases = [case_at(i, 10 * i) for i in range(4)]
    seen = [observation(i, passed=False, strength=1.0) for i in range(4)]
    assert choose_cases(cases, seen, "r2", count=2) == {0: "failed", 3: "deepest"}


def test_a_run_without_rows_drops_those_of_an_earlier_start(scored: Path) -> None:
    run = scored / "outputs" / "nano" / "r2"
    command = ["score", "--lengths", "128", "--depths", "0,50,100", "--limit", "48"]
    succeed(*command, "--keep-rows", "2", cwd=scored)
    assert read_rows(run) is not None
    succeed(*command, cwd=scored)
    assert not (run / ROWS).exists()
    assert read_rows(run) is None


def test_damaged_rows_are_refused(tmp_path: Path) -> None:
    (tmp_path / ROWS).write_bytes(b"no rows")
    with pytest.raises(HeadprobeError, match="`keep_rows`"):
        KeptRows.load(tmp_path / ROWS)


def test_rows_that_lack_a_field_are_refused_and_our_bugs_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ROWS
    KeptRows(heads=HEADS, cases=()).save(path)
    assert KeptRows.load(path).heads == HEADS
    header = {"format_version": FORMAT_VERSION, "heads": HEADS, "cases": [{"case_id": 0}]}
    save_file({"x": np.zeros(1)}, path, metadata={"headprobe": json.dumps(header)})
    with pytest.raises(HeadprobeError, match="expected answer of a case, got none"):
        KeptRows.load(path)
    for bug in (AttributeError, KeyError, TypeError):

        def broken(*_: object, bug: type[Exception] = bug) -> None:
            raise bug("ours")

        monkeypatch.setattr("headprobe.runs.kept_rows._case", broken)
        with pytest.raises(bug, match="ours"):
            KeptRows.load(path)


def test_the_texts_of_tokens_join_to_the_text_of_all(nano: LoadedModel) -> None:
    ids = nano.tokenizer.encode("Who sold figs to Rosa? Rosa sold them.")
    texts = token_texts(nano.tokenizer, ids)
    assert len(texts) == len(ids)
    assert "".join(texts) == nano.tokenizer.decode(ids)


def test_a_character_of_several_tokens_is_the_text_of_the_last() -> None:
    class Bytes:
        """A tokenizer whose tokens are bytes."""

        def decode(self, ids: list[int], **_: object) -> str:
            return bytes(ids).decode(errors="replace")

    ids = list("a林b".encode())
    assert token_texts(Bytes(), ids) == ("a", "", "", "林", "b")  # type: ignore[arg-type]

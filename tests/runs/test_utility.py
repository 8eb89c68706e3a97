"""The utility of entries against the plain procedure: whole maps, and a sort a head in float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from headprobe.errors import HeadprobeWarning
from headprobe.models.loading import LoadedModel, load_model
from headprobe.prompts.case import Case
from headprobe.prompts.spec import CaseSpec
from headprobe.runs.case_runner import observe_cases
from headprobe.runs.memory import ChunkSizes
from headprobe.runs.observation import decode, encode
from headprobe.runs.plan import PlannedRun, prepare
from headprobe.runs.score import collect, score
from headprobe.scores import HeadScores
from headprobe.scores.utility import FRACTIONS, SETTINGS, WINDOW
from headprobe.tasks import TASKS
from tests._support.architectures import WINDOWED, WITH_STATES
from tests._support.reference import attention_layers, cases_of, tiny

ARCHITECTURES = ["llama", "mistral", "gemma2", "gpt_oss", "gpt_neox", "qwen3", *WITH_STATES]


@pytest.fixture(scope="module")
def nano() -> LoadedModel:
    return load_model("nano", device="cpu", dtype="float32")


def plain_order(attended: np.ndarray) -> list[int]:
    """By the largest of seven neighbours, then by itself, then the older first."""
    pooled = [attended[max(0, j - 3) : j + 4].max() for j in range(len(attended))]
    return sorted(range(len(attended)), key=lambda j: (-pooled[j], -attended[j], j))


def plain_curves(model: torch.nn.Module, loaded: LoadedModel, case: Case, seen: Any) -> np.ndarray:
    """Attention on the first entries, ``[cut, layer, KV head, fraction]``, from the whole map."""
    assert case.question is not None
    layout = loaded.layout
    text = [*case.input_ids, *seen.generated_ids[:-1]]
    with torch.no_grad():
        maps = model(torch.tensor([text]), use_cache=False, output_attentions=True).attentions
    curves = np.zeros((2, layout.layers, layout.num_kv_heads, len(FRACTIONS)))
    for layer, own in zip(attention_layers(loaded), maps, strict=True):
        groups = own[0].double().numpy().reshape(layout.num_kv_heads, -1, len(text), len(text))
        for head, rows in enumerate(groups.mean(axis=1)):
            for cut, end in enumerate((case.length, case.question.start)):
                older = end - WINDOW
                order = plain_order(rows[older:end, :older].mean(axis=0))
                first = case.length - 1
                steps = rows[first + seen.step_start : first + seen.step_end, :older]
                if not len(steps):
                    continue
                held = np.concatenate([[0.0], steps.mean(axis=0)[order].cumsum()])
                curves[cut, layer, head] = np.interp(FRACTIONS * older, np.arange(older + 1), held)
    return curves


def check_equals_plain(
    loaded: LoadedModel, plain: torch.nn.Module, cases: list[Case], **how: Any
) -> None:
    task = TASKS["retrieval"].measuring(how.pop("measures", None)).gathering_utility()
    task = task.counting("reference")
    task = replace(task, probe=replace(task.probe, max_new_tokens=lambda _: 4))
    largest = 0.0
    for seen in observe_cases(loaded, cases, task, **how):
        assert seen.utility is not None
        expected = plain_curves(plain, loaded, cases[seen.case_id], seen)
        largest = max(largest, expected.max())
        np.testing.assert_allclose(seen.utility.cumsum(axis=-1), expected, atol=2e-3)
    assert largest > 0.3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.slow
def test_every_architecture_equals_a_sort_head_by_head(architecture: str) -> None:
    # A sliding window that reaches beyond the newest entries.
    windowed = {"sliding_window": 48} if architecture in WINDOWED else {}
    loaded, plain = tiny(architecture, **windowed)
    cases = cases_of(loaded, "retrieval", limit=4)
    check_equals_plain(loaded, plain, cases, chunk_sizes=ChunkSizes(prefill_chunk=64))


@pytest.mark.parametrize("how", [{"packed": False}, {"measures": ["qr"]}, {"decode": "forced"}])
def test_prompts_that_are_run_otherwise_equal_it_too(how: dict[str, Any]) -> None:
    loaded, plain = tiny("llama")
    cases = cases_of(loaded, "retrieval", limit=4)
    check_equals_plain(loaded, plain, cases, **how)
    tight = ChunkSizes(prefill_chunk=7, row_bytes=2**11)
    check_equals_plain(loaded, plain, cases, chunk_sizes=tight, **how)


def test_a_question_shorter_than_the_window_is_cut_where_it_ends() -> None:
    loaded, plain = tiny("llama")
    [case] = cases_of(loaded, "retrieval", limit=1)
    assert case.question is not None
    question = replace(case.question, start=case.length - 3, end=case.length - 1)
    check_equals_plain(loaded, plain, [replace(case, question=question)])


def planned(nano: LoadedModel, out: Path, *, limit: int = 6, utility: bool = True) -> PlannedRun:
    task = TASKS["r2"].gathering_utility() if utility else TASKS["r2"]
    spec = CaseSpec(lengths=(128, 160), depths=(0.0, 100.0), limit=limit)
    return prepare(nano, task, spec, out=out)


@pytest.fixture(scope="module")
def whole(nano: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> HeadScores:
    """Ten cases at once."""
    found = score(nano, planned(nano, tmp_path_factory.mktemp("whole") / "run", limit=10))
    assert found is not None
    return found


def check_same(one: HeadScores | None, other: HeadScores) -> None:
    assert one is not None
    assert one.utility is not None
    assert other.utility is not None
    for setting in SETTINGS:
        found, expected = (getattr(run.utility, setting) for run in (one, other))
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert expected.max() > 0.9
    assert one.utility.tokens == other.utility.tokens


def test_a_run_that_goes_on_has_the_curves_of_all_cases(
    nano: LoadedModel, whole: HeadScores, tmp_path: Path
) -> None:
    fewer = score(nano, planned(nano, tmp_path))
    assert fewer is not None
    assert fewer.utility is not None
    assert whole.utility is not None
    assert not np.allclose(fewer.utility.query_aware, whole.utility.query_aware, atol=1e-3)
    check_same(score(nano, planned(nano, tmp_path, limit=10)), whole)
    check_same(HeadScores.load(tmp_path), whole)


def test_a_run_without_curves_gets_them_when_they_are_asked_for(
    nano: LoadedModel, whole: HeadScores, tmp_path: Path
) -> None:
    without = score(nano, planned(nano, tmp_path, limit=10, utility=False))
    assert without is not None
    assert without.utility is None
    np.testing.assert_allclose(without.mean("r2"), whole.mean("r2"), atol=1e-4)
    with pytest.warns(HeadprobeWarning, match="units of work .* cannot be used"):
        found = score(nano, planned(nano, tmp_path, limit=10))
    check_same(found, whole)


def test_the_curves_of_several_processes_are_those_of_one(
    nano: LoadedModel, whole: HeadScores
) -> None:
    run = planned(nano, Path("unused"), limit=10)
    seen = [
        decode(
            encode(one),
            case_id=one.case_id,
            measures=("r2",),
            shape=(6, 8),
            curves=(2, 6, 4, len(FRACTIONS)),
        )
        for shard in run.tree.shards(3)
        for one in observe_cases(nano, run.cases, run.task, wanted=shard, tree=run.tree)
    ]
    check_same(collect(nano, run, sorted(seen, key=lambda one: one.case_id)), whole)

"""What the first version wrote, as it lies in ``first_version``, is still read."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from transformers import PreTrainedTokenizerBase

from headprobe.budgets import HeadBudgets
from headprobe.errors import UsageError
from headprobe.formats.import_run import import_run
from headprobe.models.loading import load_model
from headprobe.prompts.case import Case
from headprobe.prompts.spec import CaseSpec
from headprobe.runs.case_runner import observe_cases
from headprobe.runs.directory import newest_budget, read_cases
from headprobe.runs.held_out import seeds_of
from headprobe.runs.plan import prepare
from headprobe.runs.score import score
from headprobe.scores import HeadScores
from headprobe.scores.tables import head_table
from headprobe.tasks import TASKS

FILES = Path(__file__).with_name("first_version")
RUN = FILES / "run"


def test_a_run_directory_is_read() -> None:
    scores = HeadScores.load(RUN)
    assert (scores.task, scores.cases, scores.layout.id) == ("r2", 6, "nano")
    table = pd.read_csv(RUN / "heads.csv")
    pd.testing.assert_frame_equal(head_table(scores, seed=0), table, check_dtype=False, rtol=1e-6)
    cases = read_cases(RUN)
    assert cases is not None
    assert cases["accepted"].sum() == scores.passed
    assert seeds_of([scores]) == {0}


@pytest.mark.parametrize("packed", [True, False])
def test_its_cases_have_the_same_answers_and_scores(packed: bool) -> None:
    """One by one, as it ran them, to the bit on one machine; packed, sums have another order."""
    loaded = load_model("nano", device="cpu", dtype="float32")
    rows = list(pd.read_parquet(RUN / "cases.parquet").itertuples())
    task = TASKS["r2"].counting("reference")
    cases = [case_of(row, loaded.tokenizer) for row in rows]
    seen = {one.case_id: one for one in observe_cases(loaded, cases, task, packed=packed)}
    assert [seen[row.case_id].score for row in rows] == [row.success for row in rows]
    for row in rows:
        assert list(seen[row.case_id].generated_ids) == list(row.generated_ids)
    scores = np.stack([seen[row.case_id].scores["r2"] for row in rows if row.accepted])
    np.testing.assert_allclose(scores, HeadScores.load(RUN).per_case["r2"], rtol=0, atol=1e-6)


def case_of(row: Any, tokenizer: PreTrainedTokenizerBase) -> Case:
    names = ("case_id", "needle_id", "length", "depth", "position", "span_start", "span_end")
    return Case(
        **{name: getattr(row, name) for name in names},
        input_ids=tuple(row.input_ids.tolist()),
        answer=tokenizer.decode(row.answer_ids).strip(),
        answer_ids=tuple(row.answer_ids.tolist()),
    )


def test_its_budget_is_read() -> None:
    path = newest_budget(RUN)
    assert path is not None
    budgets = HeadBudgets.load(path)
    assert budgets.tokens.sum() == 32 * budgets.tokens.size
    assert budgets.layout == HeadScores.load(RUN).layout


@pytest.mark.parametrize(("file", "source"), [("heads.json", "headkv"), ("duo", "duo")])
def test_its_exports_are_imported(file: str, source: str, tmp_path: Path) -> None:
    run, _ = import_run(FILES / file, tmp_path / "run", source=source)
    assert (run.layout.layers, run.measures) == (6, (source,))
    if source == "headkv":
        np.testing.assert_allclose(run.mean("headkv"), HeadScores.load(RUN).mean("r2"), rtol=1e-5)


def test_an_old_run_is_left_alone_and_replaced_when_asked(tmp_path: Path) -> None:
    shutil.copytree(RUN, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    spec = CaseSpec(lengths=(128, 160), depths=(0.0, 100.0), limit=6)
    loaded = load_model("nano", device="cpu", dtype="float32")
    run = prepare(loaded, TASKS["r2"], spec, out=tmp_path / "run")
    with pytest.raises(UsageError, match=r"holds scores\.safetensors of a run that cannot be gone"):
        score(loaded, run)
    assert {name: (run.out / name).read_bytes() for name in before} == before
    scores = score(loaded, run, overwrite=True)
    assert scores is not None
    assert HeadScores.load(run.out).plan["kind"] == "score"
    assert not (run.out / "journal.sqlite").exists()
    assert (run.out / "budget-headkv-32.json").read_bytes() == before["budget-headkv-32.json"]

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from headprobe.allocators import BudgetSize, allocate
from headprobe.errors import HeadprobeError, Interrupted, UsageError
from headprobe.evaluation.answering import Answers, _Reader, evaluate
from headprobe.evaluation.methods import Method, MethodOptions
from headprobe.evaluation.plan import PlannedEvaluation, plan_evaluation
from headprobe.evaluation.questions import Question
from headprobe.evaluation.results import ANSWERS, REPORT, RESULTS
from headprobe.evaluation.run import run_evaluation
from headprobe.models.loading import LoadedModel, load_model
from headprobe.prompts.spec import CaseSpec
from headprobe.runs.progress import FILE_NAME

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nano() -> LoadedModel:
    return load_model("nano")


@pytest.fixture(scope="module")
def file(nano: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A budget that names no run."""
    path = tmp_path_factory.mktemp("budgets") / "own.json"
    scores = np.random.default_rng(0).random((nano.layout.layers, nano.layout.num_heads))
    allocate(scores, nano.layout, budget=BudgetSize(tokens=24)).save(path)
    return path


def plan(nano: LoadedModel, file: Path, out: Path, **options: Any) -> PlannedEvaluation:
    """An evaluation of a budget beside two baselines: all would take three times as long."""
    fields = {"limit": 3} | {n: options.pop(n) for n in ("limit", "seed") if n in options}
    spec = CaseSpec(lengths=(128,), depths=(0.0, 100.0), **fields)
    with pytest.warns(UserWarning, match="no case table"):
        whole = plan_evaluation(nano, MethodOptions(budgets=(file,)), spec, out=out, **options)
    return replace(whole, methods=whole.methods[:3])


def after(count: int, do: Callable[[], None]) -> Callable[[], None]:
    """Does it when it is called for the ``count``th time."""
    left = [count]

    def advance() -> None:
        left[0] -= 1
        if left[0] == 0:
            do()

    return advance


def interrupt() -> None:
    raise KeyboardInterrupt


def test_an_evaluation_that_is_stopped_goes_on(
    nano: LoadedModel, file: Path, tmp_path: Path
) -> None:
    planned = plan(nano, file, tmp_path / "cut")
    with pytest.raises(Interrupted, match="stopped after 2 of 3 questions; the same command goes"):
        run_evaluation(nano, planned, advance=after(2, interrupt))
    assert [path.name for path in planned.out.iterdir()] == [FILE_NAME]
    counted = []
    found = run_evaluation(nano, planned, advance=lambda: counted.append(1))
    assert len(counted) == 3
    whole = replace(planned, out=tmp_path / "whole")
    run_evaluation(nano, whole)
    assert (planned.out / RESULTS).read_bytes() == (whole.out / RESULTS).read_bytes()
    stopped, at_once = (json.loads((p.out / REPORT).read_text()) for p in (planned, whole))
    assert stopped["results"] == at_once["results"]
    assert (stopped["status"], stopped["resumed_from"]) == ("complete", 2)
    pd.testing.assert_frame_equal(
        pd.read_parquet(planned.out / ANSWERS), pd.read_parquet(whole.out / ANSWERS)
    )
    # What progress gave back is what is answered without it.
    plainly = evaluate(nano, planned.questions, planned.methods).results(seed=planned.seed)
    for one, other in zip(planned.results(found), plainly, strict=True):
        assert one == other


def test_a_finished_evaluation_is_graded_anew_and_asks_nothing(
    nano: LoadedModel, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = plan(nano, file, tmp_path)
    run_evaluation(nano, planned)
    monkeypatch.setattr(
        "headprobe.evaluation.answering._Reader.answer", lambda *_: pytest.fail("asked again")
    )
    again = plan(nano, file, tmp_path, metric="passed")
    found = again.results(run_evaluation(nano, again))
    assert [one.gain for one in found] != [None] * len(found)
    full = next(one for one in found if one.strategy == "full")
    for one in found:
        passed = one.grades["passed"].value / full.grades["passed"].value
        assert one.of_full == pytest.approx(passed)


def test_other_options_are_refused_and_overwriting_starts_over(
    nano: LoadedModel, file: Path, tmp_path: Path
) -> None:
    run_evaluation(nano, plan(nano, file, tmp_path, limit=2, seed=1))
    other = plan(nano, file, tmp_path, limit=2, seed=2)
    with pytest.raises(UsageError, match=r"seed was 1, now 2"):
        run_evaluation(nano, other)
    run_evaluation(nano, other, overwrite=True)
    assert len(pd.read_parquet(tmp_path / ANSWERS)) == 2 * 2 * 4
    # The same options, but the file holds another budget now.
    changed = tmp_path / file.name
    shutil.copy(file, changed)
    first = plan(nano, changed, tmp_path / "out")
    allocate(np.ones((6, 8)), nano.layout, budget=BudgetSize(tokens=30)).save(changed)
    assert plan(nano, changed, tmp_path / "out").plan.differences(first.plan)


def test_more_questions_go_on_from_fewer(
    nano: LoadedModel, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_evaluation(nano, plan(nano, file, tmp_path / "grown", limit=2))
    larger = plan(nano, file, tmp_path / "grown", limit=5)
    whole = larger.results(run_evaluation(nano, replace(larger, out=tmp_path / "whole")))
    asked = []
    read = _Reader.answer

    def count(reader: _Reader, question: Question, **options: bool) -> dict[str, Answers]:
        asked.append(question.key)
        return read(reader, question, **options)

    monkeypatch.setattr(_Reader, "answer", count)
    assert larger.results(run_evaluation(nano, larger)) == whole
    assert len(asked) == 3


def test_a_copy_of_a_budget_under_another_name_is_the_same(
    nano: LoadedModel, file: Path, tmp_path: Path
) -> None:
    first = plan(nano, file, tmp_path / "out")
    copied = tmp_path / "copied.json"
    shutil.copy(file, copied)
    again = plan(nano, copied, tmp_path / "out")
    assert not first.plan.differences(again.plan)
    assert list(first.keys) == list(again.keys)


def test_budgets_that_differ_at_one_length_alone_are_asked_anew(
    nano: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, more = (
        allocate(np.ones((6, 8)), nano.layout, budget=BudgetSize(tokens=size)) for size in (24, 25)
    )

    def entries(below: int) -> str:
        candidate = Method(
            strategy="own",
            budget="24",
            window=8,
            at=lambda cut_point: more if cut_point.tokens < below else few,
        )
        monkeypatch.setattr("headprobe.evaluation.plan.build_methods", lambda *_, **__: [candidate])
        spec = CaseSpec(lengths=(128, 300), depths=(50.0,), limit=4)
        with pytest.warns(UserWarning, match="no case table"):
            planned = plan_evaluation(nano, MethodOptions(budgets=(file,)), spec)
        return str(planned.keys)

    file = tmp_path / "own.json"
    few.save(file)
    assert len({entries(below) for below in (0, 200, 400)}) == 3


def test_a_directory_that_cannot_be_written_to_is_found_out_first(
    nano: LoadedModel, file: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    planned = plan(nano, file, tmp_path / "file")
    with pytest.raises(UsageError, match="file is no directory"):
        run_evaluation(nano, planned, advance=lambda: pytest.fail("asked"))


def test_two_at_once_are_refused(nano: LoadedModel, file: Path, tmp_path: Path) -> None:
    planned = plan(nano, file, tmp_path)

    def second() -> None:
        with pytest.raises(HeadprobeError, match="another headprobe is working on"):
            run_evaluation(nano, planned)

    run_evaluation(nano, planned, advance=after(1, second))
    assert (tmp_path / RESULTS).is_file()

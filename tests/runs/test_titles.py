from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from headprobe.allocators.mixing import WeightedRun, allocate_runs
from headprobe.plots.budgets import budget_column
from headprobe.plots.comparisons import comparison_column
from headprobe.runs.titles import run_facts, runs_facts, sources_facts
from headprobe.scores import HeadScores
from headprobe.scores.comparison import compare_runs
from tests._support.reports import make_run


@pytest.fixture
def r2(tmp_path: Path) -> HeadScores:
    run = make_run(tmp_path / "r2", kept=0)
    return replace(run, plan={**run.plan, "prompt": "auto", "prompt_style": "chat"})


@pytest.fixture
def retrieval(tmp_path: Path) -> HeadScores:
    return make_run(tmp_path / "b", task="retrieval", measures=("retrieval",), cases=20, kept=0)


def test_a_run_is_told_by_its_cases_and_its_prompt(r2: HeadScores) -> None:
    assert run_facts(r2) == ("36 of 40 cases passed", "prompt chat")


def test_several_runs_are_told_by_model_and_task_too(r2: HeadScores, retrieval: HeadScores) -> None:
    assert runs_facts([r2, r2]) == ["36 of 40 cases passed, prompt chat"]
    assert runs_facts([r2, retrieval]) == [
        "tiny, HeadKV-R2: 36 of 40 cases passed, prompt chat",
        "tiny, retrieval: 18 of 20 cases passed",
    ]


def test_the_picture_of_a_comparison_says_what_was_compared(
    r2: HeadScores, retrieval: HeadScores
) -> None:
    details = comparison_column(compare_runs([("a", r2), ("b", retrieval)])).details
    assert tuple(runs_facts([r2, retrieval])) in details


def test_a_budget_and_its_picture_say_which_cases_it_rests_on(
    r2: HeadScores, retrieval: HeadScores
) -> None:
    alone = allocate_runs([WeightedRun(name="a", scores=r2)])
    facts = [("HeadKV-R2", "36 of 40 cases passed", "prompt chat")]
    assert sources_facts(alone.strategy) == facts
    assert facts[0] in budget_column(alone).details
    mixed = allocate_runs(
        [
            WeightedRun(name="a", scores=r2, weight=3.0),
            WeightedRun(name="b", scores=retrieval, weight=1.0),
        ]
    )
    assert sources_facts(mixed.strategy) == [
        ("75% of HeadKV-R2", "36 of 40 cases passed", "prompt chat"),
        ("25% of retrieval", "18 of 20 cases passed"),
    ]


def test_a_budget_without_a_record_of_runs_is_told_without_them() -> None:
    assert sources_facts({"name": "uniform"}) == []
    assert sources_facts({"scores": [{"run": "a", "weight": 1.0}]}) == []

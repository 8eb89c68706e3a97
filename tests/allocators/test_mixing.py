from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headprobe.allocators import allocate
from headprobe.allocators.mixing import WeightedRun, allocate_runs, parse_weighted
from headprobe.errors import HeadprobeError, UsageError
from headprobe.models.layout import HeadLayout
from headprobe.scores import HeadScores
from tests._support.refusals import refused

LAYOUT = HeadLayout(
    id="tiny", architecture="llama", layers=2, num_heads=4, num_kv_heads=2, head_dim=8
)
ONE = np.array([[4.0, 0, 0, 0], [2, 0, 0, 2]])
TWO = np.array([[0.0, 0, 0.1, 0], [0, 0.3, 0, 0]])


def run(
    name: str, weight: float = 1.0, layout: HeadLayout = LAYOUT, **measures: np.ndarray
) -> WeightedRun:
    scores = HeadScores(
        layout=layout,
        task=name,
        per_case={measure: m[None].astype(np.float32) for measure, m in measures.items()},
        needles=(0,),
        cases=1,
    )
    return WeightedRun(name=name, scores=scores, weight=weight)


def test_one_run_is_allocated_from_its_scores_as_they_are() -> None:
    budgets = allocate_runs([run("r2", 3.0, r2=ONE)], strategy="threshold", threshold=1.5)
    plain = allocate(ONE, LAYOUT, strategy="threshold", threshold=1.5)
    assert budgets.ratio.tolist() == plain.ratio.tolist()
    (source,) = budgets.strategy["scores"]
    assert budgets.strategy == {**plain.strategy, "scores": [source]}
    assert source.items() >= {"run": "r2", "task": "r2", "measures": ["r2"], "weight": 1.0}.items()


@pytest.mark.parametrize("scale", [1, 10])
def test_several_runs_are_brought_to_one_sum_and_added_by_weight(scale: int) -> None:
    runs = [run("a", 0.7 * scale, r2=ONE), run("b", 0.3 * scale, retrieval=TWO)]
    expected = 0.7 * ONE / 8 + 0.3 * TWO / np.float64(0.4)
    budgets = allocate_runs(runs, strategy="headkv", reduce="max")
    plain = allocate(expected, LAYOUT, strategy="headkv", reduce="max")
    assert budgets.tokens.tolist() == plain.tokens.tolist()
    recorded = budgets.strategy["scores"]
    assert [source["run"] for source in recorded] == ["a", "b"]
    assert [source["measures"] for source in recorded] == [["r2"], ["retrieval"]]
    assert [source["weight"] for source in recorded] == pytest.approx([0.7, 0.3])


def test_runs_of_equal_scores_mix_to_the_same_budget_whatever_their_weights() -> None:
    alone = allocate_runs([run("a", r2=ONE)])
    both = allocate_runs([run("a", 0.9, r2=ONE), run("b", 0.1, r2=10 * ONE)])
    assert both.tokens.tolist() == alone.tokens.tolist()


def test_a_strategy_of_two_measures_reads_both_of_every_run() -> None:
    mixed = allocate_runs(
        [run("a", 0.9, echo=TWO, induction=ONE), run("b", 0.1, echo=ONE, induction=TWO)],
        strategy="razor",
        induction=0.25,
        echo=0.25,
    )
    plain = allocate(
        ONE,
        LAYOUT,
        strategy="razor",
        induction=0.25,
        echo=0.25,
        measured={
            "induction": 0.9 * ONE / 8 + 0.1 * TWO / 0.4,
            "echo": 0.9 * TWO / 0.4 + 0.1 * ONE / 8,
        },
    )
    assert mixed.ratio.tolist() == plain.ratio.tolist()
    assert mixed.strategy["scores"][0]["measures"] == ["induction", "echo"]


OTHER = replace(LAYOUT, layers=1)


@pytest.mark.parametrize(
    ("runs", "options", "error", "problem"),
    [
        (
            [run("a", r2=ONE), run("b", r2=TWO[:1], layout=OTHER)],
            {},
            UsageError,
            "a is of tiny and b of tiny, which differ in layers, 2 and 1",
        ),
        (
            [run("a", r2=ONE), run("b", r2=TWO, layout=replace(LAYOUT, id="big"))],
            {},
            UsageError,
            "a is of tiny and b of big, which differ in id, tiny and big",
        ),
        (
            [run("a", r2=ONE), run("b", retrieval=TWO)],
            {"measure": "r2"},
            UsageError,
            "measure=r2: of b: the run holds retrieval",
        ),
        (
            [run("a", r2=ONE), run("b", r2=-TWO)],
            {},
            HeadprobeError,
            "the r2 scores of b cannot be mixed with others: some are negative; leave that run out",
        ),
        (
            [run("a", r2=ONE), run("b", r2=0 * TWO)],
            {},
            HeadprobeError,
            "the r2 scores of b cannot be mixed with others: all are zero",
        ),
        (
            [run("a", r2=ONE), run("b", r2=TWO)],
            {"strategy": "threshold"},
            UsageError,
            "strategy threshold compares scores in their own unit",
        ),
        (
            [run("a", r2=ONE)],
            {"strategy": "razor"},
            UsageError,
            "strategy razor reads the measure 'induction', and a holds r2; score the model with "
            "the task of that measure",
        ),
        (
            [run("a", r2=ONE)],
            {"strategy": "alibi"},
            UsageError,
            "strategy alibi reads the measure 'alibi', and a holds r2",
        ),
        (
            [run("a", echo=ONE, induction=ONE)],
            {"strategy": "razor", "measure": "echo"},
            UsageError,
            "measure=echo: strategy razor reads induction and echo",
        ),
    ],
)
def test_what_does_not_go_together_is_one_clear_line(
    runs: list[WeightedRun],
    options: dict[str, Any],
    error: type[HeadprobeError],
    problem: str,
) -> None:
    with pytest.raises(error) as caught:
        allocate_runs(runs, **options)
    assert type(caught.value) is error
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "path", "weight"),
    [
        ("outputs/nano/r2", "outputs/nano/r2", 1.0),
        ("outputs/nano/r2:0.7", "outputs/nano/r2", 0.7),
        ("a:b:3", "a:b", 3.0),
        ("C:\\runs\\r2", "C:\\runs\\r2", 1.0),
        ("C:\\runs\\r2:0.25", "C:\\runs\\r2", 0.25),
        ("there:2", "there:2", 1.0),
        ("there:2:0.5", "there:2", 0.5),
        ("0.5", "0.5", 1.0),
        (":2", ":2", 1.0),
        ("run:", "run:", 1.0),
    ],
)
def test_a_run_is_read_with_its_weight_and_the_colons_of_its_path(
    text: str, path: str, weight: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there:2").mkdir()
    assert parse_weighted(text) == (Path(path), weight)


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf"])
def test_a_weight_that_is_none_is_wrong_usage(weight: str) -> None:
    with refused("must be above 0", option="scores", value=f"run:{weight}"):
        parse_weighted(f"run:{weight}")

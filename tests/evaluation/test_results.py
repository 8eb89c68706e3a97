from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from headprobe.evaluation.results import (
    ANSWERS,
    FULL,
    RESULTS,
    Evaluation,
    MethodAnswers,
    MethodResult,
    grade,
    result_table,
)
from headprobe.evaluation.settings import SETTINGS
from headprobe.scores.tables import write_table
from headprobe.stats.bootstrap import interval

QUESTIONS, NEEDLES = 24, 6
GROUPS = tuple(question % NEEDLES for question in range(QUESTIONS))


def method(setting: str, strategy: str, budget: str, mean: float, *, seed: int) -> MethodAnswers:
    generator = np.random.default_rng(seed)
    grades = {
        name: 100.0 * (generator.random(QUESTIONS) < mean + extra)
        for name, extra in (("exact_match", 0), ("f1", 0.1), ("recall", 0.1))
    }
    return MethodAnswers(
        setting=setting,
        strategy=strategy,
        selection={FULL: None, "streaming": "streaming"}.get(strategy, "attention"),
        budget=budget,
        is_baseline=strategy in ("uniform", "streaming"),
        fractions=generator.uniform(0.1, 0.2, QUESTIONS),
        responses=tuple(f"answer {n}" for n in range(QUESTIONS)),
        grades=grades,
    )


def evaluation() -> Evaluation:
    methods = []
    for number, setting in enumerate(SETTINGS):
        methods.append(method(setting, FULL, "100%", 0.9, seed=100 + number))
        for size, mean in (("16", 0.4), ("64", 0.7)):
            for i, (name, gain) in enumerate(
                (("headkv", 0.1), ("uniform", 0.0), ("streaming", -0.3))
            ):
                seed = 10 * number + i + (1000 if size == "64" else 0)
                methods.append(method(setting, name, size, mean + gain, seed=seed))
    return Evaluation(questions=tuple(range(QUESTIONS)), groups=GROUPS, methods=tuple(methods))


def find(
    found: list[MethodResult] | tuple[MethodAnswers, ...], *names: str
) -> MethodResult | MethodAnswers:
    return next(one for one in found if (one.setting, one.strategy, one.budget) == names)


@pytest.mark.parametrize("metric", ["exact_match", "f1"])
def test_outcomes_are_what_plain_computation_gives(metric: str) -> None:
    found = evaluation()
    results = found.results(metric=metric, seed=3)
    assert len(results) == len(found.methods)
    for result, own in zip(results, found.methods, strict=True):
        assert result.fraction == pytest.approx(own.fractions.mean())
        for name, grades in own.grades.items():
            assert result.grades[name].value == pytest.approx(grades.mean())
            assert result.grades[name] == interval(grades, GROUPS, seed=3)
        full = find(found.methods, own.setting, FULL, "100%").grades[metric].mean()
        assert result.of_full == pytest.approx(own.grades[metric].mean() / full)


def test_the_rival_is_the_best_baseline_of_the_same_budget_and_setting() -> None:
    found = evaluation()
    for result in found.results(metric="f1"):
        if result.strategy != "headkv":
            assert result.best_baseline is None
            assert result.gain is None
            continue
        assert result.best_baseline == "uniform"
        names = result.setting, result.budget
        own, other = (
            find(found.methods, names[0], strategy, names[1]).grades["f1"]
            for strategy in ("headkv", "uniform")
        )
        assert result.gain is not None
        assert result.gain.value == pytest.approx(own.mean() - other.mean())
        assert result.gain == interval(own - other, GROUPS)


def test_a_lead_is_resampled_in_pairs() -> None:
    """Question by question a little better is surely better, however the questions differ."""
    base = method("query_aware", "uniform", "16", 0.5, seed=0)
    better = method("query_aware", "headkv", "16", 0.5, seed=0)
    ahead = {name: grades + 1.0 for name, grades in base.grades.items()}
    better = MethodAnswers(**{**vars(better), "grades": ahead})
    found = Evaluation(
        questions=tuple(range(QUESTIONS)),
        groups=GROUPS,
        methods=(method("query_aware", FULL, "100%", 0.9, seed=1), better, base),
    )
    gain = found.results(metric="f1")[1].gain
    assert gain is not None
    assert gain.ci_low == pytest.approx(1.0) == pytest.approx(gain.ci_high)


def test_where_the_full_cache_answers_nothing_no_part_of_it_is_named() -> None:
    full = method("query_aware", FULL, "100%", -1.0, seed=0)
    found = Evaluation(questions=tuple(range(QUESTIONS)), groups=GROUPS, methods=(full,))
    assert found.results(metric="exact_match")[0].of_full is None


def test_an_unknown_metric_is_named() -> None:
    with pytest.raises(ValueError, match=r"exact_match, f1, recall, got 'rouge'"):
        evaluation().results(metric="rouge")


def test_trials_hold_an_answer_to_every_question() -> None:
    with pytest.raises(ValueError, match="expected 3 answers of full"):
        Evaluation(
            questions=(0, 1, 2),
            groups=(0, 1, 2),
            methods=(method("query_aware", FULL, "", 0.5, seed=0),),
        )


def test_a_response_is_graded_by_every_metric() -> None:
    assert grade("red", ["red kites", "blue"]) == {
        "exact_match": 0.0,
        "f1": pytest.approx(200 / 3),
        "recall": 50.0,
    }


def test_answers_and_results_are_tables(tmp_path: Path) -> None:
    found = evaluation()
    results = found.results()
    write_table(found.answer_table(), tmp_path / ANSWERS)
    write_table(result_table(results), tmp_path / RESULTS)
    answers = pd.read_parquet(tmp_path / ANSWERS)
    assert len(answers) == QUESTIONS * len(found.methods)
    kept = answers.query("setting == 'query_agnostic' and strategy == 'uniform' and budget == '64'")
    own = find(found.methods, "query_agnostic", "uniform", "64")
    np.testing.assert_array_equal(kept["f1"], own.grades["f1"])
    assert kept["group"].tolist() == list(GROUPS)
    assert kept["response"].tolist() == list(own.responses)
    table = pd.read_csv(tmp_path / RESULTS)
    assert len(table) == len(results)
    for row, result in zip(table.to_dict("records"), results, strict=True):
        assert row["metric"] == "f1"
        assert row["ci_high"] == pytest.approx(result.grades["f1"].ci_high)
        if result.gain:
            assert row["gain_low"] == pytest.approx(result.gain.ci_low)
            assert row["best_baseline"] == result.best_baseline
        else:
            assert np.isnan(row["gain"])

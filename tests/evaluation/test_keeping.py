from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headprobe.evaluation.keeping import crossing, kept_fractions
from headprobe.evaluation.results import FULL, Evaluation, MethodAnswers
from headprobe.evaluation.settings import QUERY_AWARE

QUESTIONS = 40


def method(strategy: str, fraction: float, right: int) -> MethodAnswers:
    return MethodAnswers(
        setting=QUERY_AWARE,
        strategy=strategy,
        selection=None if strategy == FULL else "attention",
        budget=f"{fraction:.0%}",
        is_baseline=strategy == "uniform",
        fractions=np.full(QUESTIONS, fraction),
        responses=("",) * QUESTIONS,
        grades={"f1": 100.0 * (np.arange(QUESTIONS) < right)},
    )


def evaluation(*methods: MethodAnswers) -> Evaluation:
    numbers = tuple(range(QUESTIONS))
    return Evaluation(questions=numbers, groups=numbers, methods=methods)


@pytest.mark.parametrize(
    ("means", "keep", "fraction"),
    [
        ([0.0, 80.0, 100.0], 0.9, 0.75),
        ([0.0, 80.0, 100.0], 0.8, 0.5),
        ([0.0, 80.0, 100.0], 0.4, 0.3),
        ([90.0, 95.0, 100.0], 0.9, 0.1),
        # From the full cache down: what is lost and won back does not count.
        ([100.0, 50.0, 100.0], 0.9, 0.9),
        ([100.0, 120.0, 100.0], 1.0, 0.1),
    ],
)
def test_accuracy_is_linear_between_the_fractions(
    means: list[float], keep: float, fraction: float
) -> None:
    fractions = np.array([0.1, 0.5, 1.0])
    assert crossing(fractions, np.array(means), keep=keep) == pytest.approx(fraction)


@given(st.lists(st.floats(1, 100), min_size=4, max_size=4), st.floats(0.05, 1))
def test_accuracy_at_the_crossing_is_the_target_or_above(means: list[float], keep: float) -> None:
    fractions = np.array([0.1, 0.25, 0.5, 1.0])
    at = crossing(fractions, np.array(means), keep=keep)
    reached = np.interp([at, *fractions[fractions > at]], fractions, means)
    assert (reached >= keep * means[-1] - 1e-6).all()


def test_each_strategy_has_a_fraction_with_an_interval_around_it() -> None:
    found = evaluation(
        method(FULL, 1.0, 40),
        method("headkv", 0.25, 39),
        method("headkv", 0.05, 20),
        method("uniform", 0.05, 40),
        method("uniform", 0.25, 40),
    )
    own, baseline = kept_fractions(found, keep=0.9, metric="f1", seed=0)
    assert (own.strategy, own.is_baseline, own.is_bound) == ("headkv", False, False)
    assert own.fraction.value == pytest.approx(0.05 + 0.2 * (36 - 20) / (39 - 20))
    assert 0.05 < own.fraction.ci_low < own.fraction.value < own.fraction.ci_high < 0.5
    assert (baseline.strategy, baseline.is_bound) == ("uniform", True)
    assert baseline.fraction.value == baseline.fraction.ci_high == 0.05
    assert kept_fractions(found, keep=0.9, metric="f1", seed=0)[0] == own


def test_where_the_full_cache_answers_nothing_there_is_nothing_to_keep() -> None:
    found = evaluation(method(FULL, 1.0, 0), method("headkv", 0.5, 0))
    assert kept_fractions(found, keep=0.9, metric="f1") == []

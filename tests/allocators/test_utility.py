"""Entries by the largest marginal gain, against a greedy loop over single entries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from headprobe.allocators import allocate
from headprobe.allocators._pool import BudgetSize
from headprobe.allocators.mixing import WeightedRun, allocate_runs
from headprobe.allocators.utility import utility
from headprobe.models.layout import HeadLayout
from headprobe.scores import HeadScores
from headprobe.scores.utility import UtilityCurves, hull_slopes
from tests._support.refusals import refused

WINDOW = 8
OLDER = 40
LAYERS, KV_HEADS, GROUP = 2, 3, 2
SCORES = np.zeros((LAYERS, KV_HEADS * GROUP))
# A share an entry of a context of 48 tokens.
GAINS = arrays(np.float64, (LAYERS, KV_HEADS, OLDER), elements=st.floats(0, 0.024))


def curves(gains: np.ndarray, agnostic: np.ndarray | None = None) -> UtilityCurves:
    held = gains.cumsum(axis=-1)
    return UtilityCurves(
        fractions=np.arange(1, OLDER + 1) / OLDER,
        query_aware=held,
        query_agnostic=held if agnostic is None else agnostic.cumsum(axis=-1),
        tokens=np.array([OLDER + WINDOW], dtype=np.float32),
    )


def tokens(found: UtilityCurves, **options: Any) -> np.ndarray:
    allocation = utility(SCORES, group=GROUP, window=WINDOW, curves=found, **options)
    assert not allocation.ratio.any()
    return allocation.tokens


def chord_hull(curve: np.ndarray) -> np.ndarray:
    """The highest chord over every point of a curve from 0, point by point."""
    points = np.concatenate([[0.0], curve])
    last = len(points) - 1
    hull = points.copy()
    for x in range(1, last):
        for a in range(x):
            for b in range(x + 1, last + 1):
                hull[x] = max(hull[x], points[a] + (points[b] - points[a]) * (x - a) / (b - a))
    return hull


@given(gains=arrays(np.float64, (1, 1, 12), elements=st.floats(0, 0.08)))
def test_the_hull_is_the_highest_chord(gains: np.ndarray) -> None:
    curve = gains.cumsum(axis=-1)
    slopes = hull_slopes(np.arange(1, 13) / 12, curve)[0, 0]
    np.testing.assert_allclose(slopes.cumsum() / 12, chord_hull(curve[0, 0])[1:], atol=1e-12)
    assert (np.diff(slopes) <= 1e-12).all()


@given(gains=GAINS, budget=st.integers(WINDOW + 1, OLDER + WINDOW))
def test_entries_go_one_by_one_where_they_gain_most(gains: np.ndarray, budget: int) -> None:
    falling = -np.sort(-gains, axis=-1)
    found = tokens(curves(falling), budget=BudgetSize(tokens=budget), context_length=48)
    spent = budget * found.size
    assert found.sum() == spent
    assert found.min() >= WINDOW
    assert found.max() <= OLDER + WINDOW
    # No other division of as many entries holds more.
    held = sum(
        own[: count - WINDOW].sum()
        for own, count in zip(falling.reshape(-1, OLDER), found.ravel(), strict=True)
    )
    best = np.sort(falling, axis=None)[::-1][: spent - WINDOW * found.size].sum()
    assert held == pytest.approx(best, abs=1e-9)


@given(gains=GAINS, fraction=st.floats(0.01, 1))
def test_fractions_of_an_unknown_context_are_the_entries_of_a_long_one(
    gains: np.ndarray, fraction: float
) -> None:
    size = BudgetSize(fraction=fraction)
    found = utility(SCORES, group=GROUP, window=WINDOW, curves=curves(gains), budget=size)
    assert found.ratio.mean() == pytest.approx(fraction)
    assert (found.tokens == WINDOW).all()
    kept = tokens(curves(gains), budget=size, context_length=10**8)
    np.testing.assert_allclose(kept / 10**8, found.ratio, atol=1e-6)


def test_what_no_head_gains_by_is_divided_evenly() -> None:
    gains = np.zeros((LAYERS, KV_HEADS, OLDER))
    gains[0, 0, :10] = 0.01
    found = tokens(curves(gains), budget=BudgetSize(tokens=WINDOW + 5), context_length=48)
    assert found.tolist() == [[18 + 4, WINDOW + 4, WINDOW + 3], [WINDOW + 3] * 3]


def test_each_setting_has_its_curves() -> None:
    aware, agnostic = np.zeros((2, LAYERS, KV_HEADS, OLDER))
    aware[0, 0] = agnostic[1, 2] = 0.02
    both = curves(aware, agnostic)
    size = BudgetSize(tokens=WINDOW + 5)
    for setting, best in (("query_aware", (0, 0)), ("query_agnostic", (1, 2))):
        found = tokens(both, budget=size, setting=setting, context_length=48)
        assert np.argwhere(found == found.max()).tolist() == [[*best]]


LAYOUT = HeadLayout(
    id="tiny",
    architecture="llama",
    layers=LAYERS,
    num_heads=KV_HEADS * GROUP,
    num_kv_heads=KV_HEADS,
    head_dim=8,
)


def run(name: str, weight: float, **fields: Any) -> WeightedRun:
    scores = np.ones((1, LAYERS, KV_HEADS * GROUP), dtype=np.float32)
    held = HeadScores(
        layout=LAYOUT, task="r2", per_case={"r2": scores}, needles=(0,), cases=1, **fields
    )
    return WeightedRun(name=name, scores=held, weight=weight)


def test_runs_are_mixed_by_weight() -> None:
    one, other = np.zeros((2, LAYERS, KV_HEADS, OLDER))
    one[0, 0], other[1, 2] = 0.01, 0.02
    runs = [run("one", 3.0, utility=curves(one)), run("other", 1.0, utility=curves(other))]
    mixed = allocate_runs(
        runs, strategy="utility", budget=BudgetSize(tokens=WINDOW + 5), context_length=48
    )
    expected = allocate(
        SCORES,
        LAYOUT,
        strategy="utility",
        budget=BudgetSize(tokens=WINDOW + 5),
        context_length=48,
        curves=curves((3 * one + other) / 4),
    )
    assert (mixed.tokens == expected.tokens).all()
    assert mixed.strategy["setting"] == "query_aware"


def test_what_it_cannot_divide_is_refused() -> None:
    with refused("the same score command again with `utility`"):
        allocate_runs([run("one", 1.0)], strategy="utility")
    with refused("a curve a KV head", option="granularity", value="query"):
        allocate_runs(
            [run("one", 1.0, utility=curves(np.zeros((LAYERS, KV_HEADS, OLDER))))],
            strategy="utility",
            granularity="query",
        )
    with pytest.raises(ValueError, match="expected utility curves for strategy utility, got none"):
        allocate(SCORES, LAYOUT, strategy="utility")

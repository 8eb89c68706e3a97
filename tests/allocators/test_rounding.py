import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from headprobe.allocators._rounding import is_reference, round_to_total, water_fill
from tests._support.refusals import refused

SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 5))
WEIGHTS = SHAPES.flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.floats(0, 1e6, allow_subnormal=True))
)


def plain_water_fill(base: float, weights: list[float], total: float, cap: float) -> list[float]:
    """By bisection on the factor that weights are multiplied with."""
    if sum(min(cap, base + (math.inf if w else 0)) for w in weights) < total:
        level = min(cap, (total - cap * sum(w > 0 for w in weights)) / weights.count(0.0))
        return [cap if w else level for w in weights]
    low, high = 0.0, 1e9
    for _ in range(300):
        factor = (low + high) / 2
        below = sum(min(cap, base + factor * w) for w in weights) < total
        low, high = (factor, high) if below else (low, factor)
    return [min(cap, base + high * w) for w in weights]


@pytest.mark.parametrize("total", [20.0, 24.0, 30.0, 41.0, 50.0, 60.0])
@pytest.mark.parametrize("cap", [10.0, 12.5, 1000.0])
def test_filling_equals_a_common_factor_found_by_bisection(total: float, cap: float) -> None:
    weights = [0.0, 1.0, 2.0, 0.5, 10.0, 0.0]
    filled = water_fill(np.full((2, 3), 3.0), np.reshape(weights, (2, 3)), total=total, cap=cap)
    assert filled.ravel() == pytest.approx(plain_water_fill(3.0, weights, total, cap))


@given(weights=WEIGHTS, base=st.floats(0, 10), beyond=st.floats(0, 1e5), cap=st.floats(1, 1e5))
def test_filling_keeps_total_floor_cap_and_order(
    weights: np.ndarray, base: float, beyond: float, cap: float
) -> None:
    total = weights.size * base + beyond
    filled = water_fill(np.full(weights.shape, base), weights, total=total, cap=cap)
    assert math.fsum(filled.ravel()) == pytest.approx(
        max(min(total, weights.size * cap), min(base, cap) * weights.size)
    )
    assert (filled >= min(base, cap)).all()
    assert (filled <= cap).all()
    assert (np.diff(filled.ravel()[np.argsort(weights, axis=None)]) >= 0).all()


@given(weights=WEIGHTS, total=st.integers(0, 500), seed=st.integers(0, 99))
def test_filling_and_rounding_do_not_depend_on_the_order_of_heads(
    weights: np.ndarray, total: int, seed: int
) -> None:
    def budget(weights: np.ndarray) -> dict[float, list[int]]:
        filled = water_fill(np.zeros(weights.shape), weights, total=float(total), cap=math.inf)
        rounded = round_to_total(filled, total=total, ties=weights)
        return {w: sorted(rounded[weights == w].tolist()) for w in np.unique(weights)}

    mixed = np.random.default_rng(seed).permutation(weights.ravel()).reshape(weights.shape)
    assert budget(mixed) == budget(weights)


@given(weights=WEIGHTS, total=st.integers(0, 10_000))
def test_rounding_gives_the_total_and_moves_no_value_by_one(
    weights: np.ndarray, total: int
) -> None:
    filled = water_fill(np.zeros(weights.shape), weights, total=float(total), cap=math.inf)
    rounded = round_to_total(filled, total=total, ties=weights)
    assert rounded.sum() == total
    assert (np.abs(rounded - filled) < 1 + 1e-9).all()


def test_equal_remainders_go_by_ties_then_by_layer_and_head() -> None:
    values = np.array([[1.5, 2.5], [3.5, 4.5]])
    ties = np.array([[0, 1], [2, 2]])
    assert round_to_total(values, total=12, ties=ties).tolist() == [[1, 2], [4, 5]]
    assert round_to_total(values, total=11, ties=ties).tolist() == [[1, 2], [4, 4]]
    assert round_to_total(values, total=12, ties=np.zeros((2, 2))).tolist() == [[2, 3], [3, 4]]


def test_values_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(ValueError, match="add up to 9"):
        round_to_total(np.ones((2, 2)), total=9, ties=np.ones((2, 2)))


def test_an_unknown_rounding_lists_the_choices() -> None:
    assert is_reference("reference")
    assert not is_reference("exact")
    with refused("exact or reference", option="rounding", value="up"):
        is_reference("up")

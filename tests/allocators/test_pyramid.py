import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headprobe.allocators._pool import BudgetSize
from headprobe.allocators.pyramid import pyramid
from headprobe.errors import UsageError
from tests._support.refusals import refused


def layers_of(layers: int, budget: int, **options: object) -> np.ndarray:
    allocation = pyramid(
        np.zeros((layers, 4)), group=2, window=8, budget=BudgetSize(tokens=budget), **options
    )
    assert (allocation.tokens == allocation.tokens[:, :1]).all()
    return allocation.tokens[:, 0]


def authors_layer(layer: int, layers: int, budget: int, window: int, beta: int, length: int) -> int:
    """KVCache-Factory's update_kv for one layer, step by step."""
    least = (budget - window) // beta
    most = (budget - window) * 2 - least
    if most >= length - window:
        most = length - window
        least = (budget - window) * 2 - most
    steps = (most - least) // (layers - 1)
    if length < budget:
        return length
    if length < (budget - window) * 2:
        return budget - window + window
    return most - layer * steps + window


@given(
    layers=st.integers(1, 40),
    budget=st.integers(9, 600),
    beta=st.floats(1, 100),
    context_length=st.none() | st.integers(1, 2000),
)
def test_layers_are_exact_in_total_and_fall_in_even_steps(
    layers: int, budget: int, beta: float, context_length: int | None
) -> None:
    kept = layers_of(layers, budget, beta=beta, context_length=context_length)
    cap = context_length or 10**9
    assert kept.sum() == min(budget, cap) * layers
    assert kept.min() >= min(8, cap)
    assert kept.max() <= cap
    assert (np.diff(kept) <= 0).all()
    assert layers < 3 or np.ptp(np.diff(kept)) <= 2


def test_the_ends_are_those_of_the_paper() -> None:
    kept = layers_of(32, 128)
    assert (kept[0], kept[-1]) == (8 + 240 - 6, 8 + 6)


def test_a_beta_of_one_is_uniform() -> None:
    assert layers_of(5, 100, beta=1.0).tolist() == [100] * 5


@pytest.mark.parametrize("length", [60, 128, 200, 239, 240, 241, 300, 10_000])
@pytest.mark.parametrize("layers", [2, 5, 32])
def test_the_papers_rounding_equals_the_authors_code(layers: int, length: int) -> None:
    kept = layers_of(layers, 128, rounding="reference", context_length=length)
    assert kept.tolist() == [authors_layer(i, layers, 128, 8, 20, length) for i in range(layers)]


def test_the_authors_total_lies_four_percent_above_the_budget() -> None:
    assert layers_of(32, 128, rounding="reference").mean() == 133.5
    assert layers_of(1, 128, rounding="reference").tolist() == [128 + 120 - 6]


def test_a_fraction_of_an_unknown_context_falls_in_ratios() -> None:
    for fraction in (0.015, 0.6, 1.0):
        allocation = pyramid(
            np.zeros((4, 2)), group=1, window=8, budget=BudgetSize(fraction=fraction)
        )
        assert allocation.ratio.sum() == pytest.approx(8 * fraction)
        assert allocation.ratio.max() <= 1
        assert (allocation.tokens == 8).all()
        steps = np.diff(allocation.ratio[:, 0])
        assert steps == pytest.approx(np.full(3, steps[0]))


def test_wrong_usage_is_refused() -> None:
    with refused(option="beta", value=0.5):
        layers_of(4, 128, beta=0.5)
    with pytest.raises(UsageError, match="tokens"):
        pyramid(
            np.ones((2, 2)),
            group=1,
            window=8,
            budget=BudgetSize(fraction=0.5),
            rounding="reference",
        )

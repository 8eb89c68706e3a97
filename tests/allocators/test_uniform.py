import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headprobe.allocators._pool import BudgetSize
from headprobe.allocators.uniform import uniform


@pytest.mark.parametrize("scores", [np.zeros((3, 4)), np.full((3, 4), np.nan), -np.eye(3, 4)])
def test_every_head_gets_the_budget_whatever_the_scores(scores: np.ndarray) -> None:
    allocation = uniform(scores, group=2, window=8, budget=BudgetSize(tokens=128))
    assert allocation.tokens.tolist() == [[128, 128]] * 3
    assert not allocation.ratio.any()


def test_no_head_gets_more_than_the_context() -> None:
    allocation = uniform(
        np.ones((3, 4)), group=1, window=8, budget=BudgetSize(tokens=128), context_length=100
    )
    assert allocation.tokens.tolist() == [[100] * 4] * 3


@given(thousandths=st.integers(1, 1000), context_length=st.integers(9000, 20_000))
def test_a_fraction_of_a_known_context_is_exact_in_total_and_even(
    thousandths: int, context_length: int
) -> None:
    fraction = thousandths / 1000
    allocation = uniform(
        np.ones((3, 4)),
        group=2,
        window=8,
        budget=BudgetSize(fraction=fraction),
        context_length=context_length,
    )
    assert allocation.tokens.sum() == round(fraction * context_length * 6)
    assert np.ptp(allocation.tokens) <= 1


def test_a_fraction_of_an_unknown_context_is_the_same_ratio_for_all() -> None:
    allocation = uniform(np.ones((3, 4)), group=2, window=8, budget=BudgetSize(fraction=0.3))
    assert allocation.ratio.tolist() == [[pytest.approx(0.3)] * 2] * 3
    assert allocation.tokens.tolist() == [[8, 8]] * 3

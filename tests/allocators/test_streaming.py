import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headprobe.allocators._streaming import best_fraction, best_heads, full_or_streaming
from headprobe.errors import UsageError


def test_the_best_heads_are_those_of_a_plain_sort_ties_in_order() -> None:
    scores = np.array([[0.2, 0.9, 0.5], [0.9, 0.5, 0.1]])
    assert best_heads(scores, 3).tolist() == [[False, True, True], [True, False, False]]
    assert not best_heads(scores, 0).any()
    assert best_heads(scores, 6).all()


@given(per_cent=st.integers(0, 100), heads=st.integers(1, 400))
def test_a_share_of_the_heads_is_rounded_up_as_in_decimal_arithmetic(
    per_cent: int, heads: int
) -> None:
    chosen = best_fraction(np.arange(heads, dtype=float)[None], per_cent / 100, option="--sparsity")
    assert chosen.sum() == -(-per_cent * heads // 100)


def test_the_window_is_kept_where_recent_is_less() -> None:
    full = np.array([[True, False]])
    allocation = full_or_streaming(full, window=8, sinks=4, recent=2)
    assert allocation.tokens.tolist() == [[12, 12]]
    assert allocation.ratio.tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"sinks": -1}, "--sinks must be 0 or more, got -1"),
        ({"recent": -4}, "--recent must be 0 or more, got -4"),
        ({"recent_fraction": 1.5}, "--recent-fraction is a fraction from 0 to 1, got 1.5"),
        ({"recent_fraction": float("nan")}, "--recent-fraction is a fraction from 0 to 1, got nan"),
    ],
)
def test_options_out_of_range_are_wrong_usage(options: dict[str, float], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        full_or_streaming(
            np.ones((1, 2), dtype=np.bool_), window=8, **{"sinks": 4, "recent": 8} | options
        )

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headprobe.allocators._streaming import full_or_streaming, top_fraction
from headprobe.errors import UsageError


@given(per_cent=st.integers(0, 100), heads=st.integers(1, 400))
def test_a_share_of_the_heads_is_rounded_up_as_in_decimal_arithmetic(
    per_cent: int, heads: int
) -> None:
    chosen = top_fraction(np.arange(heads, dtype=float)[None], per_cent / 100, option="--sparsity")
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

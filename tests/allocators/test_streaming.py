import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headprobe.allocators._streaming import full_or_streaming, top_fraction
from tests._support.refusals import refused


@given(per_cent=st.integers(0, 100), heads=st.integers(1, 400))
def test_a_fraction_of_the_heads_is_rounded_up_as_in_decimal_arithmetic(
    per_cent: int, heads: int
) -> None:
    chosen = top_fraction(np.arange(heads, dtype=float)[None], per_cent / 100, option="sparsity")
    assert chosen.sum() == -(-per_cent * heads // 100)


def test_the_window_is_kept_where_recent_is_less() -> None:
    full = np.array([[True, False]])
    allocation = full_or_streaming(full, window=8, sinks=4, recent=2)
    assert allocation.tokens.tolist() == [[12, 12]]
    assert allocation.ratio.tolist() == [[1, 0]]


@pytest.mark.parametrize(
    ("option", "value"),
    [("sinks", -1), ("recent", -4), ("recent_fraction", 1.5), ("recent_fraction", float("nan"))],
)
def test_options_out_of_range_are_wrong_usage(option: str, value: float) -> None:
    options = {"sinks": 4, "recent": 8, option: value}
    with refused(option=option, value=value):
        full_or_streaming(np.ones((1, 2), dtype=np.bool_), window=8, **options)

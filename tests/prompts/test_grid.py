import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headprobe.errors import UsageError
from headprobe.prompts.grid import (
    DEPTHS_BY_DEFAULT,
    MOST_VALUES,
    choose_lengths,
    parse_depths,
    parse_grid,
    parse_lengths,
)
from tests._support.refusals import refused

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False)


@given(start=NUMBERS, step=st.floats(0.1, 1e3), count=st.integers(2, 40))
def test_a_range_has_both_ends_and_even_steps(start: float, step: float, count: int) -> None:
    stop = start + step * (count - 1)
    values = parse_grid(f"{start!r}:{stop!r}:{count}", name="lengths")
    assert len(values) == count
    assert values[0] == start
    assert values[-1] == stop
    for i, value in enumerate(values):
        assert math.isclose(value, start + i * step, rel_tol=1e-9, abs_tol=1e-6)


@given(st.lists(NUMBERS, min_size=1, max_size=20))
def test_a_list_comes_back_ascending_without_repeats(values: list[float]) -> None:
    text = ", ".join(map(repr, values))
    assert parse_grid(text, name="depths") == sorted(set(values))


def test_a_range_of_one_value_is_its_start() -> None:
    assert parse_grid("5:9:1", name="depths") == [5.0]


@given(start=st.floats(-1e6, 1e6), stop=st.floats(-1e6, 1e6), count=st.integers(1, 50))
def test_a_range_has_the_values_of_numpy_bit_for_bit(start: float, stop: float, count: int) -> None:
    values = np.linspace(start, stop, count).tolist()
    assert parse_grid(f"{start!r}:{stop!r}:{count}", name="depths") == sorted(set(values))


def test_a_range_may_be_given_downwards() -> None:
    assert parse_lengths("300:100:3") == (100, 200, 300)


@pytest.mark.parametrize(
    "text",
    ["", "a", "1,,2", "1:2", "1:2:3:4", "1:2:x", "1:2:0", "1:2:-1", "1:2:1.5", "nan", "1,inf"],
)
def test_what_cannot_be_read_is_shown_with_both_ways_to_write_it(text: str) -> None:
    for parse in (parse_depths, parse_lengths):
        with pytest.raises(UsageError, match=r"start:stop:count .* or a comma list") as error:
            parse(text)
        assert error.value.value == text
        assert error.value.exit_code == 2


def test_the_option_is_named_where_its_value_cannot_be_read() -> None:
    with refused(option="depths", value="half"):
        parse_depths("half")
    with refused(option="lengths", value="long"):
        parse_lengths("long")


def test_a_count_that_memory_might_not_hold_is_refused() -> None:
    assert len(parse_grid(f"0:1:{MOST_VALUES}", name="depths")) == MOST_VALUES
    with refused("1,000 values at most", option="depths", value="0:100:20000000"):
        parse_depths("0:100:20000000")
    with refused("1,000 values at most", option="lengths", value="1:2000:1001"):
        parse_lengths("1:2000:1001")


def test_lengths_are_whole_tokens_each_once() -> None:
    assert parse_lengths("100.4,99.6,100") == (100,)


@pytest.mark.parametrize(("text", "least"), [("0", 0), ("0.4,100", 0), ("-5:100:3", -5)])
def test_a_length_below_one_token_is_refused(text: str, least: int) -> None:
    with refused("at least 1 token", option="lengths", value=least):
        parse_lengths(text)


def test_a_length_beyond_the_window_is_refused_with_the_longest_that_fits() -> None:
    assert choose_lengths((2048,), longest=2048) == [2048]
    with refused("do not fit .* at most 2048", option="lengths", value=2049):
        choose_lengths((100, 2049), longest=2048)


@given(longest=st.one_of(st.none(), st.integers(1, 200_000)))
def test_the_default_lengths_reach_as_far_as_they_may(longest: int | None) -> None:
    lengths = choose_lengths(None, longest=longest)
    assert lengths[-1] == min(10_000, longest or 10_000)
    assert lengths[0] >= 1
    if lengths[-1] >= 10:
        assert len(lengths) == 10


def test_the_default_lengths_of_a_long_window_are_those_of_the_contract() -> None:
    assert choose_lengths(None, longest=None) == list(range(1000, 10_001, 1000))
    assert list(parse_lengths("1000:10000:10")) == list(range(1000, 10_001, 1000))


def test_the_default_lengths_start_where_every_needle_fits() -> None:
    lengths = choose_lengths(None, longest=960, least=131)
    assert (lengths[0], lengths[-1], len(lengths)) == (131, 960, 10)
    assert choose_lengths(None, longest=100, least=131) == [100]
    assert choose_lengths((64, 960), longest=960, least=131) == [64, 960]


@pytest.mark.parametrize(("text", "wrong"), [("-1,50", -1), ("0:101:2", 101)])
def test_a_depth_outside_the_haystack_is_refused(text: str, wrong: float) -> None:
    with refused("0 to 100", option="depths", value=wrong):
        parse_depths(text)


def test_both_ends_of_the_haystack_are_depths() -> None:
    assert parse_depths("0:100:3") == (0, 50, 100)


def test_by_default_there_are_ten_depths_evenly_from_end_to_end() -> None:
    assert list(DEPTHS_BY_DEFAULT) == np.linspace(0, 100, 10).tolist()

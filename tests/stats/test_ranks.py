"""Ranks, their correlation and the overlap of tops, against plain loops."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headprobe.stats.ranks import (
    average_ranks,
    rank_correlation,
    top_heads,
    top_overlap,
    usual_top,
)

# Few values, so that many are equal; of both signs, with both zeros and very small ones.
VALUES = st.sampled_from([-3.5, -1.0, -1e-40, -0.0, 0.0, 1e-40, 0.1, 0.25, 7e30])
ROWS = st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=9)
LOTS = settings(max_examples=200, deadline=None, derandomize=True)


def sides(pairs: list[tuple[float, float]]) -> np.ndarray:
    """The ones and the others, a row of heads each."""
    return np.array(pairs, dtype=np.float32).T


def correlation_of(one: np.ndarray, other: np.ndarray) -> float:
    (found,) = rank_correlation(one[None], other[None])
    return float(found)


def overlap_of(one: np.ndarray, other: np.ndarray, k: int) -> float:
    (found,) = top_overlap(one[None], other[None], k)
    return float(found)


def plain_ranks(values: np.ndarray) -> list[float]:
    """Half the number of those below plus half that of those up to it, counted from 1."""
    return [
        (sum(v < value for v in values) + sum(v <= value for v in values) + 1) / 2
        for value in values
    ]


def plain_correlation(one: np.ndarray, other: np.ndarray) -> float:
    first, second = plain_ranks(one), plain_ranks(other)
    a = [rank - sum(first) / len(first) for rank in first]
    b = [rank - sum(second) / len(second) for rank in second]
    spread = math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / spread if spread else 0.0


def plain_tops(values: np.ndarray, k: int) -> list[set[int]]:
    """Every choice of k heads that could be called the top k."""
    tops = itertools.combinations(range(len(values)), k)
    return [
        set(top)
        for top in tops
        if all(values[i] >= values[j] for i in top for j in set(range(len(values))) - set(top))
    ]


def plain_overlap(one: np.ndarray, other: np.ndarray, k: int) -> float:
    """The mean over all tops that there could be."""
    pairs = list(itertools.product(plain_tops(one, k), plain_tops(other, k)))
    return sum(len(a & b) for a, b in pairs) / k / len(pairs)


@LOTS
@given(pairs=ROWS)
def test_ranks_and_their_correlation_are_those_of_a_plain_loop(
    pairs: list[tuple[float, float]],
) -> None:
    one, other = sides(pairs)
    assert average_ranks(one[None]).tolist() == [plain_ranks(one)]
    assert correlation_of(one, other) == pytest.approx(plain_correlation(one, other))


@LOTS
@given(pairs=ROWS, data=st.data())
def test_the_overlap_is_the_mean_over_all_ways_to_break_ties(
    pairs: list[tuple[float, float]], data: st.DataObject
) -> None:
    one, other = sides(pairs)
    k = data.draw(st.integers(1, len(pairs)))
    assert overlap_of(one, other, k) == pytest.approx(plain_overlap(one, other, k))


def test_the_top_heads_are_those_of_a_plain_sort_ties_in_order() -> None:
    scores = np.array([[0.2, 0.9, 0.5], [0.9, 0.5, 0.1]])
    assert top_heads(scores, 3).tolist() == [[False, True, True], [True, False, False]]
    assert not top_heads(scores, 0).any()
    assert top_heads(scores, 6).all()
    equal = np.array([[1.0, 2.0], [1.0, 1.0]])
    assert top_heads(equal, 2).tolist() == [[True, True], [False, False]]


def test_rows_do_not_mix() -> None:
    generator = np.random.default_rng(0)
    one, other = (generator.integers(-3, 4, (5, 40)).astype(np.float32) for _ in range(2))
    ranks, correlation = average_ranks(one), rank_correlation(one, other)
    overlap = top_overlap(one, other, 7)
    assert correlation.shape == overlap.shape == (5,)
    for row in range(5):
        assert ranks[row].tolist() == plain_ranks(one[row])
        assert correlation[row] == pytest.approx(plain_correlation(one[row], other[row]))
        assert overlap[row] == overlap_of(one[row], other[row], 7)


def test_the_same_order_agrees_fully_and_the_reverse_not_at_all() -> None:
    values = np.random.default_rng(0).permutation(40).astype(np.float32)
    assert correlation_of(values, values**3) == pytest.approx(1)
    assert correlation_of(values, -values) == pytest.approx(-1)
    assert overlap_of(values, values**3, 20) == 1
    assert overlap_of(values, -values, 20) == 0


def test_heads_that_are_all_equal_rank_nothing() -> None:
    level, rising = np.zeros(8, dtype=np.float32), np.arange(8, dtype=np.float32)
    assert correlation_of(level, rising) == 0
    assert correlation_of(level, level) == 0
    assert overlap_of(level, rising, 2) == 2 / 8
    assert overlap_of(level, level, 2) == 2 / 8


@pytest.mark.parametrize(
    ("heads", "top"), [(1, 1), (8, 1), (40, 5), (239, 29), (240, 30), (1024, 30)]
)
def test_the_top_is_thirty_heads_or_an_eighth_of_them(heads: int, top: int) -> None:
    assert usual_top(heads) == top

"""Measure how alike two sets of scores rank the same heads: rank correlation and top-k overlap."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32

TOP = 30


def usual_top(heads: int) -> int:
    """Return the number of heads that count as the top: 30, but at most an eighth of all."""
    return min(TOP, max(1, heads // 8))


def average_ranks(values: Float32[np.ndarray, "row head"]) -> Float[np.ndarray, "row head"]:
    """Rank each row from 1 for the lowest; equal values share the mean of the ranks they take."""
    # One sort of integers, the value's bits above the place: far faster than argsort where many
    # are equal. Bits of negative floats fall as the value rises; both zeros become 0.
    bits = values.view(np.int32).astype(np.int64)
    bits = np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)
    keys = np.sort(bits << 32 | np.arange(values.shape[1]), axis=1)
    ordered, order = keys >> 32, keys & 0xFFFFFFFF
    starts = np.ones(values.shape, dtype=bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    # Runs of equals in all rows at once.
    first = np.flatnonzero(starts)
    sizes = np.diff(first, append=values.size)
    shared = np.repeat(first % values.shape[1] + (sizes + 1) / 2, sizes).reshape(values.shape)
    ranks = np.empty(values.shape)
    np.put_along_axis(ranks, order, shared, axis=1)
    return ranks


def rank_correlation(
    one: Float32[np.ndarray, "row head"], other: Float32[np.ndarray, "row head"]
) -> Float[np.ndarray, " row"]:
    """Compute Spearman's rank correlation, -1 to 1, of each row of ``one`` with that of ``other``.

    It is Pearson's correlation of the average ranks (Spearman 1904), and 0 where all heads of a
    row are equal: such a row ranks nothing.
    """
    middle = (one.shape[1] + 1) / 2
    first, second = average_ranks(one) - middle, average_ranks(other) - middle
    both = np.einsum("rh,rh->r", first, second)
    spread = np.sqrt(np.einsum("rh,rh->r", first, first) * np.einsum("rh,rh->r", second, second))
    correlation: np.ndarray = np.divide(both, spread, out=np.zeros_like(both), where=spread > 0)
    return correlation


def top_overlap(
    one: Float32[np.ndarray, "row head"], other: Float32[np.ndarray, "row head"], k: int
) -> Float[np.ndarray, " row"]:
    """Return, row by row, the fraction of the top ``k`` heads that ``one`` and ``other`` share.

    Heads that tie for the last places count in part: the overlap is the one expected if lots were
    drawn. Two random rankings share k / heads.
    """
    shared: np.ndarray = np.einsum("rh,rh->r", _top(one, k), _top(other, k)) / k
    return shared


def _top(values: Float32[np.ndarray, "row head"], k: int) -> Float[np.ndarray, "row head"]:
    """Mark a head of the top ``k`` by 1, any other by 0, heads that tie at the edge in between."""
    least = np.partition(values, -k, axis=1)[:, -k, None]
    above, level = values > least, values == least
    left = k - above.sum(axis=1, keepdims=True)
    chosen: np.ndarray = above + level * (left / level.sum(axis=1, keepdims=True))
    return chosen

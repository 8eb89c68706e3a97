"""Rank heads by their scores, and measure how alike two sets of scores rank the same heads."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float32, Real

TOP = 30


def usual_top(heads: int) -> int:
    """Return the number of heads that count as the top: 30, but at most an eighth of all."""
    return min(TOP, max(1, heads // 8))


def top_heads(scores: Real[np.ndarray, "layer head"], k: int) -> Bool[np.ndarray, "layer head"]:
    """Mark the ``k`` heads with the highest scores, ties in the order of layer and head."""
    chosen = np.zeros(scores.size, dtype=np.bool_)
    chosen[np.argsort(-scores, axis=None, kind="stable")[:k]] = True
    return chosen.reshape(scores.shape)


def average_ranks(values: Float32[np.ndarray, "row head"]) -> Float[np.ndarray, "row head"]:
    """Rank each row from 1 for the lowest; equal values share the mean of the ranks they take."""
    import pandas as pd

    ranks: Float[np.ndarray, "row head"] = pd.DataFrame(values).rank(axis=1).to_numpy()
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

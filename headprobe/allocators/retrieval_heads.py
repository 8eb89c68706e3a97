"""Strategies whose retrieval heads keep everything: chosen by fraction, threshold or number.

The other heads stream. ``duo`` takes DuoAttention's fraction (Xiao et al., arXiv 2410.10819);
``threshold`` and ``top`` choose as Retrieval Head does (Wu et al., arXiv 2404.15574).
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from headprobe.allocators._allocation import Allocation
from headprobe.allocators._reduction import rankable_scores
from headprobe.allocators._strategy import Strategy
from headprobe.allocators._streaming import (
    RECENT,
    SINKS,
    check_fraction,
    full_or_streaming,
    top_fraction,
)
from headprobe.errors import UsageError
from headprobe.stats.ranks import top_heads


def duo(
    scores: Float[np.ndarray, "layer query_head"],
    *,
    group: int,
    window: int,
    sparsity: float = 0.5,
    sinks: int = SINKS,
    recent: int = RECENT,
    reduce: str = "max",
) -> Allocation:
    """Keep the cache of the highest heads full (DuoAttention, arXiv 2410.10819); others stream.

    ``sparsity`` is the fraction of the heads that stream. The paper trains a gate for every KV
    head and takes a quantile of the gates as the threshold: it streams half of the heads of a model
    with grouped queries, three quarters without. Here any score takes the gate's place.

    The other heads keep the ``sinks`` first and the ``recent`` newest entries.

    Raises:
        UsageError: an option is out of range.
        HeadprobeError: a score is not finite, or all are zero.
    """
    heads = rankable_scores(scores, group=group, reduce=reduce)
    check_fraction(sparsity, "sparsity")
    chosen = top_fraction(heads, 1 - sparsity, option="sparsity")
    return full_or_streaming(chosen, window=window, sinks=sinks, recent=recent)


def threshold(
    scores: Float[np.ndarray, "layer query_head"],
    *,
    group: int,
    window: int,
    threshold: float = 0.1,
    sinks: int = SINKS,
    recent: int = RECENT,
    reduce: str = "max",
) -> Allocation:
    """Keep the cache of heads that score above a threshold full; let the other heads stream.

    0.1 is the threshold of Retrieval Head on its own score (Wu et al., arXiv 2404.15574).

    The other heads keep the ``sinks`` first and the ``recent`` newest entries.

    Raises:
        UsageError: an option is out of range, or no head scores above the threshold.
        HeadprobeError: a score is not finite, or all are zero.
    """
    if not math.isfinite(threshold):
        raise UsageError("expected a number", option="threshold", value=threshold)
    heads = rankable_scores(scores, group=group, reduce=reduce)
    chosen = heads > threshold
    if not chosen.any():
        raise UsageError(
            f"no head scores above it, the highest {heads.max():.3g}: "
            "give a lower one, or use `strategy=top`",
            option="threshold",
            value=threshold,
        )
    return full_or_streaming(chosen, window=window, sinks=sinks, recent=recent)


def top(
    scores: Float[np.ndarray, "layer query_head"],
    *,
    group: int,
    window: int,
    top_k: int,
    sinks: int = SINKS,
    recent: int = RECENT,
    reduce: str = "max",
) -> Allocation:
    """Keep the cache of the ``top_k`` highest heads full; let the other heads stream.

    Retrieval Head masks heads by number, not by threshold (Wu et al., arXiv 2404.15574).

    The other heads keep the ``sinks`` first and the ``recent`` newest entries.

    Raises:
        UsageError: an option is out of range.
        HeadprobeError: a score is not finite, or all are zero.
    """
    reduced = rankable_scores(scores, group=group, reduce=reduce)
    if not 0 <= top_k <= reduced.size:
        message = f"expected 0 to {reduced.size}, the number of heads"
        raise UsageError(message, option="top_k", value=top_k)
    chosen = top_heads(reduced, top_k)
    return full_or_streaming(chosen, window=window, sinks=sinks, recent=recent)


DUO = Strategy(
    summary="a fraction of the heads streams, the best keep everything (DuoAttention)",
    allocate=duo,
)
THRESHOLD = Strategy(
    summary="heads that score above a threshold keep everything, the others stream",
    allocate=threshold,
    in_own_unit=True,
)
TOP = Strategy(
    summary="the k heads with the highest scores keep everything, the others stream",
    allocate=top,
)

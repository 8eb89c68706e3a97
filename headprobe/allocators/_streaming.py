"""Helpers of strategies whose retrieval heads keep everything while the other heads stream."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float

from headprobe.allocators._allocation import Allocation
from headprobe.budgets import MAX_TOKENS
from headprobe.errors import UsageError
from headprobe.stats.ranks import top_heads

# DuoAttention's config.json.
SINKS, RECENT = 128, 256


def top_fraction(
    heads: Float[np.ndarray, "layer head"], fraction: float, *, option: str
) -> Bool[np.ndarray, "layer head"]:
    """Mark the ``fraction`` of all heads with the highest scores, rounded up to whole heads.

    Raises:
        UsageError: ``fraction``, given by ``option``, is not from 0 to 1.
    """
    check_fraction(fraction, option)
    # 0.14 * 50 is a little more than 7 in floats, and 7 heads are meant.
    return top_heads(heads, math.ceil(round(fraction * heads.size, 6)))


def full_or_streaming(
    full: Bool[np.ndarray, "layer head"],
    *,
    window: int,
    sinks: int,
    recent: int,
    recent_fraction: float = 0.0,
    compensation: bool = False,
) -> Allocation:
    """Let the ``full`` heads keep the whole context, and the other heads stream.

    Of N tokens a streaming head keeps the ``sinks`` first and, up to max(``sinks`` + ``recent``,
    ``recent_fraction`` * N) entries in all, the newest; it keeps the ``window`` newest at least.

    Raises:
        UsageError: an option is out of range.
    """
    for option, count in (("sinks", sinks), ("recent", recent)):
        if not 0 <= count <= MAX_TOKENS // 2:
            message = f"expected 0 to {MAX_TOKENS // 2}"
            raise UsageError(message, option=option, value=count)
    check_fraction(recent_fraction, "recent_fraction")
    return Allocation(
        tokens=np.full(full.shape, sinks + max(recent, window), dtype=np.int64),
        ratio=np.where(full, 1.0, recent_fraction),
        selection=np.full(full.shape, "streaming"),
        sinks=sinks,
        compensation=compensation,
    )


def check_fraction(fraction: float, option: str) -> None:
    """Refuse a number, given by ``option``, that is not from 0 to 1.

    Raises:
        UsageError: ``fraction`` lies outside 0 to 1.
    """
    if not 0 <= fraction <= 1:
        raise UsageError("expected a fraction from 0 to 1", option=option, value=fraction)

"""RazorAttention: full induction and echo heads (RoPE models; Tang et al., arXiv 2407.15891).

Induction and echo heads keep everything. The others keep 4 sinks and the max(4000, N / 5) newest of
N tokens, and one entry that stands for what they dropped. A budget counts the sinks among the
entries of its ratio, so that a head keeps max(4004, N / 5) in all: the paper's number up to 20,000
tokens, and up to 4 of the newest less from there on.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

from headprobe.allocators._allocation import Allocation
from headprobe.allocators._reduction import rankable_scores
from headprobe.allocators._strategy import Strategy
from headprobe.allocators._streaming import full_or_streaming, top_fraction


def razor(
    scores: Float[np.ndarray, "layer query_head"],
    *,
    group: int,
    window: int,
    measured: Mapping[str, Float[np.ndarray, "layer query_head"]],
    induction: float = 0.14,
    echo: float = 0.01,
    sinks: int = 4,
    recent: int = 4000,
    recent_fraction: float = 0.2,
    compensation: bool = True,
) -> Allocation:
    """Keep the cache of the best heads by induction and by echo full; let the other heads stream.

    ``induction`` and ``echo`` are fractions of all heads, rounded up; a head that is best by both
    counts once. A KV head scores the maximum of its group, so it is kept if any of its query heads
    is. ``measured`` holds the measures ``induction`` and ``echo``; ``scores`` is not looked at.

    Raises:
        UsageError: an option is out of range.
        HeadprobeError: a score is not finite, or all are zero.
        ValueError: one of the two measures is missing.
    """
    fractions = {"induction": induction, "echo": echo}
    missing = [measure for measure in fractions if measure not in measured]
    if missing:
        raise ValueError(f"expected the scores of the measure {missing[0]!r}, got none")
    full: Bool[np.ndarray, "layer head"] = np.any(
        [
            top_fraction(
                rankable_scores(measured[measure], group=group, reduce="max"),
                fraction,
                option=measure,
            )
            for measure, fraction in fractions.items()
        ],
        axis=0,
    )
    return full_or_streaming(
        full,
        window=window,
        sinks=sinks,
        recent=recent,
        recent_fraction=recent_fraction,
        compensation=compensation,
    )


STRATEGY = Strategy(
    summary="the best heads by induction and by echo keep everything (RazorAttention)",
    allocate=razor,
    reads=("induction", "echo"),
)

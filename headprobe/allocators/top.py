"""The k heads with the highest scores keep everything, the others stream.

Retrieval Head masks heads by number, not by threshold (Wu et al., arXiv 2404.15574).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from headprobe.allocators.allocation import Allocation
from headprobe.allocators.reduction import rankable_scores
from headprobe.allocators.retrieval import RECENT, SINKS, best_heads, full_or_streaming
from headprobe.errors import UsageError


def top(
    scores: Float[np.ndarray, "layer query_head"],
    *,
    group: int,
    window: int,
    heads: int,
    sinks: int = SINKS,
    recent: int = RECENT,
    reduce: str = "max",
) -> Allocation:
    """Everything for the ``heads`` heads with the highest scores.

    The other heads keep the ``sinks`` first and the ``recent`` newest entries.

    Raises:
        UsageError: an option is out of range.
        HeadprobeError: a score is not finite, or all are zero.
    """
    reduced = rankable_scores(scores, group=group, reduce=reduce)
    if not 0 <= heads <= reduced.size:
        raise UsageError(f"--heads must be 0 to {reduced.size}, all there are, got {heads}")
    chosen = best_heads(reduced, heads)
    return full_or_streaming(chosen, window=window, sinks=sinks, recent=recent)

"""Heads that score above a threshold keep everything, the others stream.

0.1 is where Retrieval Head draws the line on its own score (Wu et al., arXiv 2404.15574).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from headprobe.allocators.allocation import Allocation
from headprobe.allocators.reduction import rankable_scores
from headprobe.allocators.retrieval import RECENT, SINKS, full_or_streaming
from headprobe.errors import UsageError


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
    """Everything for the heads whose score is above ``threshold``.

    The other heads keep the ``sinks`` first and the ``recent`` newest entries.

    Raises:
        UsageError: an option is out of range, or no head scores above the threshold.
        HeadprobeError: a score is not finite, or all are zero.
    """
    heads = rankable_scores(scores, group=group, reduce=reduce)
    chosen = heads > threshold
    if not chosen.any():
        raise UsageError(
            f"no head scores above {threshold:g}, the highest {heads.max():.3g}; "
            "give a lower --threshold, or use --strategy top"
        )
    return full_or_streaming(chosen, window=window, sinks=sinks, recent=recent)

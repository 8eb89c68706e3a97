"""DuoAttention: a share of the heads is full, the others stream (Xiao et al., arXiv 2410.10819).

The paper trains a gate for every KV head and takes a quantile of the gates, "sparsity", as the
threshold: a quarter of the heads is full in a model without, half in one with grouped queries.
Here any score takes the gate's place; 1 - ``full`` is the sparsity.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from headprobe.allocators.allocation import Allocation
from headprobe.allocators.reduction import rankable_scores
from headprobe.allocators.retrieval import RECENT, SINKS, best_share, full_or_streaming


def duo(
    scores: Float[np.ndarray, "layer query_head"],
    *,
    group: int,
    window: int,
    full: float = 0.5,
    sinks: int = SINKS,
    recent: int = RECENT,
    reduce: str = "max",
) -> Allocation:
    """Everything for the heads of the highest scores, a share ``full`` of all.

    The other heads keep the ``sinks`` first and the ``recent`` newest entries.

    Raises:
        UsageError: an option is out of range.
        HeadprobeError: a score is not finite, or all are zero.
    """
    heads = rankable_scores(scores, group=group, reduce=reduce)
    chosen = best_share(heads, full, option="--full")
    return full_or_streaming(chosen, window=window, sinks=sinks, recent=recent)

"""The same budget for every head, as SnapKV has it (Li et al., arXiv 2404.14469)."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from headprobe.allocators._allocation import Allocation, to_integers
from headprobe.allocators._pool import USUAL, BudgetSize
from headprobe.allocators._strategy import Strategy


def uniform(
    scores: Float[np.ndarray, "layer query_head"],
    *,
    group: int,
    window: int,
    budget: BudgetSize = USUAL,
    context_length: int | None = None,
) -> Allocation:
    """Give every head the same budget, whatever its score (SnapKV).

    Only the shape of ``scores`` is looked at. Where a fraction of ``context_length`` comes to a
    part of an entry, the first heads get one entry more than the other heads, so that the total is
    exact.

    Raises:
        UsageError: an option is out of range.
    """
    layers, query_heads = scores.shape
    shape = (layers, query_heads // group)
    pool = budget.pool(shape[0] * shape[1], window=window, context_length=context_length)
    return to_integers(np.full(shape, pool.mean), pool, ties=np.zeros(shape), window=window)


STRATEGY = Strategy(
    summary="the same budget for every head, whatever its score (SnapKV)",
    allocate=uniform,
)

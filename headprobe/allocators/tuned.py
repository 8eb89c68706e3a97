"""HeadKV (arXiv 2410.19258) with a floor that stops growing (docs/results.md has what it adds).

HeadKV's floor is a part of the budget: of a large budget, heads that read nothing keep much. Here
it stops growing at a few entries, enough for the first tokens, where a head without anything to
read puts its attention; all the rest goes by score. A KV head scores the maximum of its group, as
it must hold what its most eager query head reads. A head can be held to what it reads
(``saturation``) while others lack something.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from headprobe.allocators._allocation import Allocation, settle
from headprobe.allocators._reduction import usable_scores
from headprobe.allocators._rounding import water_fill
from headprobe.allocators._supply import USUAL, Budget
from headprobe.budgets import MAX_TOKENS
from headprobe.errors import UsageError

FLOOR = 4


def tuned(
    scores: Float[np.ndarray, "layer query_head"],
    *,
    group: int,
    window: int,
    budget: Budget = USUAL,
    beta: float = 1.2,
    floor: int = FLOOR,
    saturation: int | None = None,
    reduce: str = "max",
    context_length: int | None = None,
) -> Allocation:
    """A budget by the heads' share of all scores, over a floor of a few entries.

    The floor is that of ``headkv`` with this ``beta``, but at most ``floor`` entries beyond the
    window. Heads are filled up to ``saturation`` entries first, and what is left then goes on by
    score. Entries are exact in total and clipped at ``context_length``. In shares of an unknown
    context nothing can be counted in entries: there the floor is ``headkv``'s.

    Raises:
        UsageError: an option is out of range, or a share of an unknown context is to saturate.
        HeadprobeError: a score is negative or not finite, or all are zero.
    """
    if not 1 <= beta < math.inf:
        raise UsageError(f"--beta of tuned must be 1 or more, got {beta:g}")
    if not 0 <= floor <= MAX_TOKENS // 2:
        raise UsageError(f"--floor must be 0 or more, got {floor}")
    if saturation is not None and saturation < 1:
        raise UsageError(f"--saturation must be 1 or more, got {saturation}")
    heads = usable_scores(scores, group=group, reduce=reduce)
    supply = budget.supply(heads.size, window=window, context_length=context_length)
    if not supply.entries and saturation is not None:
        raise UsageError(
            "--saturation counts entries: give --budget in tokens, or --context-length with a share"
        )
    base = supply.mean - supply.floor
    start = supply.floor + min(floor if supply.entries else math.inf, base - base / beta)
    first = supply.cap if saturation is None else min(max(saturation, start), supply.cap)
    held = water_fill(np.full(heads.shape, start), heads, total=supply.total, cap=float(first))
    capacity = water_fill(held, heads, total=supply.total, cap=supply.cap)
    return settle(capacity, supply, ties=heads, window=window)

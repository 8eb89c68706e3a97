"""HeadKV (arXiv 2410.19258) with a floor that stops growing (docs/results.md has what it adds).

HeadKV's floor is a part of the budget: of a large budget, heads that read nothing keep much. Here
it stops growing at a few entries, enough for the first tokens, where a head without anything to
read puts its attention; all the rest goes by score. A KV head scores the maximum of its group, as
it must hold what its most eager query head reads. A head can be held to what it reads
(``fill_to``) while others lack something.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from headprobe.allocators._allocation import Allocation, to_integers
from headprobe.allocators._pool import USUAL, BudgetSize
from headprobe.allocators._reduction import usable_scores
from headprobe.allocators._rounding import water_fill
from headprobe.allocators._strategy import Strategy
from headprobe.budgets import MAX_TOKENS
from headprobe.errors import UsageError

MIN_ENTRIES = 4


def tuned(
    scores: Float[np.ndarray, "layer query_head"],
    *,
    group: int,
    window: int,
    budget: BudgetSize = USUAL,
    beta: float = 1.2,
    min_entries: int = MIN_ENTRIES,
    fill_to: int | None = None,
    reduce: str = "max",
    context_length: int | None = None,
) -> Allocation:
    """Divide a budget by the heads' fractions of all scores, above a floor of a few entries.

    The floor is ``headkv``'s with this ``beta``, but at most ``min_entries`` entries beyond the
    window. Heads are filled up to ``fill_to`` entries first, and what is left then goes on by
    score. Entries are exact in total and clipped at ``context_length``. Fractions of an unknown
    context cannot be counted in entries: there the floor is ``headkv``'s.

    Raises:
        UsageError: an option is out of range, or ``fill_to`` is given with a fraction of an unknown
            context.
        HeadprobeError: a score is negative or not finite, or all are zero.
    """
    if not 1 <= beta < math.inf:
        raise UsageError("expected a number of 1 or more", option="beta", value=beta)
    if not 0 <= min_entries <= MAX_TOKENS // 2:
        message = f"expected 0 to {MAX_TOKENS // 2}"
        raise UsageError(message, option="min_entries", value=min_entries)
    if fill_to is not None and not 1 <= fill_to <= MAX_TOKENS:
        raise UsageError(f"expected 1 to {MAX_TOKENS}", option="fill_to", value=fill_to)
    heads = usable_scores(scores, group=group, reduce=reduce)
    pool = budget.pool(heads.size, window=window, context_length=context_length)
    if not pool.entries and fill_to is not None:
        raise UsageError(
            "counts entries: give `budget` in tokens, or a fraction of a known `context_length`",
            option="fill_to",
            value=fill_to,
        )
    base = pool.mean - pool.floor
    start = pool.floor + min(min_entries if pool.entries else math.inf, base - base / beta)
    first = pool.cap if fill_to is None else min(max(fill_to, start), pool.cap)
    held = water_fill(np.full(heads.shape, start), heads, total=pool.total, cap=float(first))
    capacity = water_fill(held, heads, total=pool.total, cap=pool.cap)
    return to_integers(capacity, pool, ties=heads, window=window)


STRATEGY = Strategy(
    summary="headkv with a floor of at most a few entries",
    allocate=tuned,
)

"""HeadKV: a floor for every head, the rest by score (Fu et al., arXiv 2410.19258, section 3.3).

With b entries a head, window w and base = b - w, every head gets base - base / beta for itself and
a part of the pool base / beta * heads by its fraction of the scores; the w newest come on top. The
larger beta is, the smaller the pool. The authors' code (FYYFU/HeadKV, headkv/snapkv_utils.py)
divides with ``//`` and rounds each head for itself, so its total is off by some entries; and what
a context shorter than a capacity cannot use is lost there.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int

from headprobe.allocators._allocation import Allocation, by_attention, to_integers
from headprobe.allocators._pool import USUAL, BudgetSize
from headprobe.allocators._reduction import usable_scores
from headprobe.allocators._rounding import is_reference, water_fill
from headprobe.allocators._strategy import Strategy
from headprobe.errors import UsageError


def headkv(
    scores: Float[np.ndarray, "layer query_head"],
    *,
    group: int,
    window: int,
    budget: BudgetSize = USUAL,
    beta: float = 1.2,
    reduce: str = "mean",
    rounding: str = "exact",
    context_length: int | None = None,
) -> Allocation:
    """Divide a budget by the heads' fractions of all scores, above a floor that ``beta`` sets.

    Entries are exact in total, clipped at ``context_length`` with the surplus to the other heads;
    ``rounding="reference"`` gives the authors' integers, clipped with the surplus lost. As
    fractions of scores count, reducing a group by ``sum`` is the same as by ``mean``.

    Raises:
        UsageError: an option is out of range, or the authors' rounding is asked of a fraction.
        HeadprobeError: a score is negative or not finite, or all are zero.
    """
    if not 1 <= beta < math.inf:
        raise UsageError("expected a number of 1 or more", option="beta", value=beta)
    heads = usable_scores(scores, group=group, reduce=reduce)
    pool = budget.pool(heads.size, window=window, context_length=context_length)
    if is_reference(rounding):
        tokens = window + _authors_capacity(heads, base=budget.in_tokens() - window, beta=beta)
        return by_attention(tokens=np.minimum(tokens, pool.cap).astype(np.int64))
    base = pool.mean - pool.floor
    floor = np.full(heads.shape, pool.floor + (base - base / beta))
    capacity = water_fill(floor, heads, total=pool.total, cap=pool.cap)
    return to_integers(capacity, pool, ties=heads, window=window)


def _authors_capacity(
    heads: Float[np.ndarray, "layer head"], *, base: int, beta: float
) -> Int[np.ndarray, "layer head"]:
    """Compute the authors' integers, without the window: float64, halves to even, as torch does."""
    pool = (base // beta) * heads.size
    floor = base - base // beta
    rounded: Int[np.ndarray, "layer head"] = np.round(heads / heads.sum() * pool + floor).astype(
        np.int64
    )
    return rounded


STRATEGY = Strategy(
    summary="a floor for every head, the rest of the budget by score (HeadKV)",
    allocate=headkv,
)

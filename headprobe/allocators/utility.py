"""LU-KV: every entry goes where it holds most of the answer's attention (arXiv 2602.08585).

A run's curves say how much of the answer's attention each KV head's entries hold, by how many it
keeps (``scores.utility``). Their concave hulls have falling slopes, so that the budget is divided
best by handing out entries by the largest slope until it is spent. There is no beta.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float

from headprobe.allocators._allocation import Allocation, to_integers
from headprobe.allocators._pool import USUAL, BudgetSize
from headprobe.allocators._rounding import water_fill
from headprobe.allocators._strategy import Strategy
from headprobe.errors import UsageError
from headprobe.scores.utility import UtilityCurves


def utility(
    scores: Float[np.ndarray, "layer query_head"],
    *,
    group: int,
    window: int,
    curves: UtilityCurves,
    budget: BudgetSize = USUAL,
    setting: Literal["query_aware", "query_agnostic"] = "query_aware",
    context_length: int | None = None,
) -> Allocation:
    """Divide a budget by the answer's attention that each further entry of a KV head holds.

    Above the window, entries go to the head whose curve rises most, in total exactly and clipped at
    ``context_length``; entries that no head gains by are divided evenly. Shares of an unknown
    context are taken of the mean prompt that was scored. Of ``scores`` only the shape is looked at.

    Args:
        scores: the scores of one measure.
        group: the query heads of a KV head.
        window: the newest entries that every head keeps.
        curves: the run's curves.
        budget: the entries of a head on average.
        setting: whether entries are chosen with the question known.
        context_length: the tokens of the context.

    Raises:
        UsageError: an option is out of range, or the budget is for query heads.
    """
    slopes = curves.slopes[setting]
    if scores.shape[1] != group * slopes.shape[1]:
        raise UsageError(
            "strategy utility has a curve a KV head: leave it at kv",
            option="granularity",
            value="query",
        )
    pool = budget.pool(slopes[..., 0].size, window=window, context_length=context_length)
    context = context_length or float(curves.tokens[0])
    older = max(0.0, context - pool.floor) if pool.entries else 1.0
    floor = np.full(slopes.shape[:2], pool.floor)
    steps = np.diff(curves.fractions, prepend=0) * older
    wanted = floor + _spend(slopes, steps, total=pool.total - float(floor.sum()))
    capacity = water_fill(wanted, np.zeros(floor.shape), total=pool.total, cap=pool.cap)
    return to_integers(capacity, pool, ties=wanted, window=window)


def _spend(
    slopes: Float[np.ndarray, "layer kv_head fraction"],
    steps: Float[np.ndarray, " fraction"],
    *,
    total: float,
) -> Float[np.ndarray, "layer kv_head"]:
    """Take steps with the steepest slopes first until ``total`` is spent, none without a slope."""
    sizes = np.where(slopes > 0, steps, 0.0).ravel()
    order = np.argsort(-slopes, axis=None, kind="stable")
    left = total - np.cumsum(sizes[order]) + sizes[order]
    taken = np.zeros(slopes.size)
    taken[order] = np.clip(left, 0.0, sizes[order])
    spent: np.ndarray = taken.reshape(slopes.shape).sum(axis=-1)
    return spent


STRATEGY = Strategy(
    summary="entries go where they hold most of the answer's attention (LU-KV)",
    allocate=utility,
    reads_curves=True,
)

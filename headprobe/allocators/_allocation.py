"""The record of what a strategy decides for every head."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Real, Shaped

from headprobe.allocators._pool import BudgetPool
from headprobe.allocators._rounding import round_to_total


@dataclass(frozen=True, eq=False, kw_only=True)
class Allocation:
    """The part of a ``HeadBudgets`` that its strategy decides; the fields mean the same there."""

    tokens: Int[np.ndarray, "layer head"]
    ratio: Float[np.ndarray, "layer head"]
    selection: Shaped[np.ndarray, "layer head"]
    sinks: int = 0
    compensation: bool = False


def by_attention(
    *, tokens: Int[np.ndarray, "layer head"], ratio: Float[np.ndarray, "layer head"] | None = None
) -> Allocation:
    """Build an allocation whose heads all keep their most attended entries."""
    return Allocation(
        tokens=tokens,
        ratio=np.zeros(tokens.shape) if ratio is None else ratio,
        selection=np.full(tokens.shape, "attention"),
    )


def to_integers(
    capacity: Float[np.ndarray, "layer head"],
    pool: BudgetPool,
    *,
    ties: Real[np.ndarray, "layer head"],
    window: int,
) -> Allocation:
    """Round real-valued capacities to an allocation with exactly the total of ``pool``.

    Entries are rounded to integers, equal remainders by ``ties``. Fractions of a context stay as
    they are, over a floor of ``window`` entries.
    """
    if pool.entries:
        return by_attention(tokens=round_to_total(capacity, total=int(pool.total), ties=ties))
    return by_attention(
        tokens=np.full(capacity.shape, window, dtype=np.int64), ratio=np.clip(capacity, 0.0, 1.0)
    )

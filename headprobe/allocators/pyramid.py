"""PyramidKV: budgets fall linearly from the bottom layer to the top (Cai et al., arXiv 2406.02069).

With b entries a head, window w and base = b - w, the top layer gets base / beta and the bottom one
2 base - base / beta, the w newest on top. In a context too short for the bottom layer, that one
gets all of it and the top layer what keeps the mean. The authors' code (KVCache-Factory,
PyramidKVCluster) divides with ``//``, the step from layer to layer too, so that its total lies
above the budget: by 4 % at 128 entries and 32 layers.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Int

from headprobe.allocators._allocation import Allocation, by_attention, to_integers
from headprobe.allocators._pool import USUAL, BudgetSize
from headprobe.allocators._rounding import is_reference
from headprobe.allocators._strategy import Strategy
from headprobe.errors import UsageError


def pyramid(
    scores: Float[np.ndarray, "layer query_head"],
    *,
    group: int,
    window: int,
    budget: BudgetSize = USUAL,
    beta: float = 20.0,
    rounding: str = "exact",
    context_length: int | None = None,
) -> Allocation:
    """Give every layer a budget of its own, the same for all heads of the layer.

    A larger ``beta`` is a steeper pyramid. Only the shape of ``scores`` is looked at. Entries are
    exact in total; ``rounding="reference"`` gives the authors' integers, for ``context_length``
    where it is given.

    Raises:
        UsageError: an option is out of range, or the authors' rounding is asked of a fraction.
    """
    if not 1 <= beta < math.inf:
        raise UsageError("expected a number of 1 or more", option="beta", value=beta)
    layers, query_heads = scores.shape
    heads = query_heads // group
    pool = budget.pool(layers * heads, window=window, context_length=context_length)
    if is_reference(rounding):
        layer = _authors_entries(layers, budget.in_tokens(), window, beta, pool.cap)
        return by_attention(tokens=np.repeat(layer[:, None], heads, axis=1))
    base = pool.mean - pool.floor
    bottom = min(2 * base - base / beta, pool.cap - pool.floor)
    fall = np.linspace(1.0, -1.0, layers) if layers > 1 else np.zeros(1)
    layer = pool.floor + base + (bottom - base) * fall
    capacity = np.repeat(layer[:, None], heads, axis=1)
    return to_integers(capacity, pool, ties=capacity, window=window)


def _authors_entries(
    layers: int, budget: int, window: int, beta: float, context_length: float
) -> Int[np.ndarray, " layer"]:
    """Compute the entries of each layer in KVCache-Factory, the window included."""
    base = budget - window
    top = base // beta
    bottom = base * 2 - top
    if bottom >= context_length - window:
        bottom = context_length - window
        top = base * 2 - bottom
    if context_length < budget:
        return np.full(layers, int(context_length))
    if context_length < base * 2:
        return np.full(layers, budget)
    step = (bottom - top) // max(1, layers - 1)
    return (window + bottom - step * np.arange(layers)).astype(np.int64)


STRATEGY = Strategy(
    summary="budgets fall linearly from the bottom layer to the top (PyramidKV)",
    allocate=pyramid,
)

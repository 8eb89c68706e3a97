"""Divide a total among heads: fill heads up to a cap, and round to integers with that total."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int, Real

from headprobe.errors import UsageError

ROUNDINGS = ("exact", "reference")


def is_reference(rounding: str) -> bool:
    """Return whether ``rounding`` asks for the paper's own integers rather than an exact total.

    Raises:
        UsageError: there is no such rounding.
    """
    if rounding not in ROUNDINGS:
        raise UsageError(f"expected {' or '.join(ROUNDINGS)}", option="rounding", value=rounding)
    return rounding == "reference"


def water_fill(
    base: Float[np.ndarray, "layer head"],
    weights: Float[np.ndarray, "layer head"],
    *,
    total: float,
    cap: float | Float[np.ndarray, "layer head"],
) -> Float[np.ndarray, "layer head"]:
    """Raise ``base`` to the sum ``total`` in proportion to ``weights``, no head above ``cap``.

    What a capped head cannot take goes to the other heads by weight, and evenly once the heads
    that are left have no weight. The sum is ``total``, or the sum of the caps where that is less.
    Under one cap a head of more weight never gets less; the order of the heads does not matter, to
    the last bit. Example: a base of 0, weights 3, 1 and 0, a total of 8 and a cap of 4 give 4, 4
    and 0.
    """
    filled: Float[np.ndarray, "layer head"] = np.minimum(base, cap)
    free = filled < cap
    while free.any():
        left = max(0.0, total - _sum(filled))
        fraction = np.where(free, weights, 0.0)
        if not fraction.any():
            fraction = free.astype(np.float64)
        fraction = fraction / fraction.max()
        filled = np.minimum(filled + left * (fraction / _sum(fraction)), cap)
        full = free & (filled >= cap)
        if not full.any():
            break
        free &= ~full
    return filled


def round_to_total(
    values: Float[np.ndarray, "layer head"],
    *,
    total: int,
    ties: Real[np.ndarray, "layer head"],
) -> Int[np.ndarray, "layer head"]:
    """Round ``values`` to integers with the sum ``total``, by largest remainder (Hamilton).

    Equal remainders go by ``ties``, higher first, then by layer and head. A larger value never
    gets a smaller integer.

    Raises:
        ValueError: ``values`` do not add up to ``total``.
    """
    whole: Int[np.ndarray, "layer head"] = np.floor(values).astype(np.int64)
    missing = total - int(whole.sum())
    if not 0 <= missing <= whole.size:
        raise ValueError(f"expected values that add up to {total}, got {values.sum()}")
    remainder = values - whole
    order = np.lexsort((-ties.ravel(), -remainder.ravel()))
    whole[np.unravel_index(order[:missing], whole.shape)] += 1
    return whole


def _sum(values: Float[np.ndarray, "layer head"]) -> float:
    """Add up floats such that the order of the heads does not change the sum."""
    return float(np.sort(values, axis=None).sum())

"""Scales and numbers: whether a logarithm is needed, its ticks, and how a value is written."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

WIDE_RANGE = 50

Write = Callable[[float], str]


def is_wide(values: Float[np.ndarray, "*size"]) -> bool:
    """Return whether only a logarithmic scale tells the small ones of these values apart."""
    positive = values[values > 0]
    return positive.size > 0 and bool(positive.max() > WIDE_RANGE * positive.min())


def positive_range(values: Float[np.ndarray, "*size"]) -> tuple[float, float]:
    """Return the ends of a logarithmic scale, on which zeros have no place."""
    return float(values[values > 0].min()), float(values.max())


def log_ticks(low: float, high: float) -> list[float]:
    """Choose round ticks of a logarithmic axis: 1, 2, 5, 10, or 1, 3, 10 where these are many."""
    digits = (1, 2, 5) if high < 500 * low else (1, 3)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [digit * 10.0**decade for decade in decades for digit in digits]
    return [tick for tick in ticks if low <= tick <= high]


def plain(value: float) -> str:
    """Write two digits of a small value, all digits before the point of a large one."""
    if abs(value) >= 10 or value == round(value):
        return f"{value:,.0f}"
    return f"{value:.2g}"


def evenly(values: Float[np.ndarray, "layer head"]) -> Write:
    """Return a writer of values with equal decimals, at least three digits of the largest.

    A zero before the point is one of the digits. Only an exact zero is written as 0.
    """
    largest = float(np.abs(values).max())
    exponent = math.floor(math.log10(largest)) if largest > 0 else 0
    decimals = max(0, (2 if exponent >= 0 else 1) - exponent)
    return lambda value: f"{value:.{decimals}f}" if value else "0"


def counted(count: int, name: str) -> str:
    """Write a number of things: ``1 layer``, ``1,024 heads``."""
    return f"{count:,} {name}" if count == 1 else f"{count:,} {name}s"

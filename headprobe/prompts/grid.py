"""Parse lengths and depths: ``start:stop:count``, both ends included, or a comma list."""

from __future__ import annotations

import math
from collections.abc import Sequence

from headprobe.errors import UsageError

LONGEST_BY_DEFAULT = 10_000
STEPS_BY_DEFAULT = 10
MOST_VALUES = 1_000


def parse_grid(text: str, *, name: str) -> list[float]:
    """Parse a grid of values, ascending and without repeats.

    Args:
        text: ``start:stop:count`` as in 0:100:10, or a comma list as in 0,50,100.
        name: the option's name in errors.

    Raises:
        UsageError: the text is neither ``start:stop:count`` nor a comma list of numbers, or its
            count is above ``MOST_VALUES``.
    """
    try:
        if ":" in text:
            start, stop, count = text.split(":")
            values = _spread(float(start), float(stop), _count(count, text, name))
        else:
            values = [float(value) for value in text.split(",")]
        if not all(map(math.isfinite, values)):
            raise ValueError("expected finite numbers")
    except ValueError as error:
        raise UsageError(
            "expected start:stop:count as in 0:100:10, or a comma list as in 0,50,100",
            option=name,
            value=text,
        ) from error
    return sorted(set(values))


def _count(count_text: str, text: str, name: str) -> int:
    count = int(count_text)
    if count < 1:
        raise ValueError("expected at least one value")
    if count > MOST_VALUES:
        raise UsageError(f"expected {MOST_VALUES:,} values at most", option=name, value=text)
    return count


def _spread(start: float, stop: float, count: int) -> list[float]:
    """Return ``count`` values at even steps, both ends included."""
    if count == 1:
        return [start]
    step = (stop - start) / (count - 1)
    return [*(start + place * step for place in range(count - 1)), stop]


DEPTHS_BY_DEFAULT = tuple(_spread(0.0, 100.0, STEPS_BY_DEFAULT))


def parse_lengths(text: str) -> tuple[int, ...]:
    """Read prompt lengths in tokens, ascending and without repeats.

    Raises:
        UsageError: the text is no grid, or a length is not positive.
    """
    lengths = sorted({round(value) for value in parse_grid(text, name="lengths")})
    if lengths[0] < 1:
        raise UsageError("expected at least 1 token", option="lengths", value=lengths[0])
    return tuple(lengths)


def parse_depths(text: str) -> tuple[float, ...]:
    """Read needle depths in per cent of the haystack, ascending and without repeats.

    Raises:
        UsageError: the text is no grid, or a depth lies outside 0 to 100.
    """
    depths = parse_grid(text, name="depths")
    outside = [depth for depth in depths if not 0 <= depth <= 100]
    if outside:
        raise UsageError("depths go from 0 to 100 %", option="depths", value=outside[0])
    return tuple(depths)


def choose_lengths(
    lengths: Sequence[int] | None, *, longest: int | None, least: int = 1
) -> list[int]:
    """Return the given lengths, or by default ten, up to 10,000 tokens or the longest that fits.

    Args:
        lengths: the lengths that the user asks for, ascending; ``None`` for the default.
        longest: the longest prompt that the model allows; ``None`` for any length.
        least: the shortest prompt that can be built.

    Raises:
        UsageError: a length is beyond ``longest``.
    """
    if lengths is None:
        top = min(LONGEST_BY_DEFAULT, longest or LONGEST_BY_DEFAULT)
        shortest = min(top, max(least, top / STEPS_BY_DEFAULT))
        values = _spread(float(shortest), float(top), STEPS_BY_DEFAULT)
        return sorted({round(value) for value in values})
    if longest is not None and lengths[-1] > longest:
        raise UsageError(
            f"so many do not fit the model's max context; prompts take at most {longest} of it",
            option="lengths",
            value=lengths[-1],
        )
    return list(lengths)

"""Order cases so that every prefix of the order is balanced over needles, lengths and depths.

Where the balance leaves a choice, cases are taken that share a path with earlier ones: the same
needle at the same position in a prompt of another length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int

from headprobe.prompts.case import Case


def balanced_cells(
    grid: Sequence[tuple[int, int, float]],
    seed: int,
    *,
    kinds: Sequence[str | None] | None = None,
    positions: Sequence[int] | None = None,
) -> Iterator[int]:
    """Yield the indices of a grid's (needle, length, depth) cells in a balanced order.

    In every prefix of the order each value of an axis occurs about equally often. The next cell is
    always the one whose needle was taken least, then its kind of needle, then its pair of length
    and depth. Of cells that are equal in these the next one shares most tokens with a taken cell:
    at lengths 1,000 and 3,000 with one needle at position 400, the 600 that follow. Then its length
    and its depth were taken least, then its pairs of needle and length or depth; the seed decides
    between equals.

    Args:
        grid: the cells; lengths are in tokens.
        seed: decides between equally good cells.
        kinds: the kind of every needle, if kinds are to be balanced too.
        positions: the needle's position in the prompt of each cell; left out, no cells share any.
    """
    needle, length, depth = (
        np.unique(axis, return_inverse=True)[1] for axis in zip(*grid, strict=True)
    )
    lengths = np.array([tokens for _, tokens, _ in grid])
    position = lengths if positions is None else np.array(positions)
    path = np.arange(len(grid)) if positions is None else _pairs(needle, position)
    kind = needle if kinds is None else _kind_of_cells(grid, kinds)
    levels = (
        (needle,),
        (kind,),
        (_pairs(length, depth),),
        (_pairs(path, length),),
        (length, depth),
        (_pairs(needle, length), _pairs(needle, depth)),
    )
    taken = [np.zeros(len(grid), dtype=int) for _ in levels]
    longest = position.copy()
    tie = np.random.default_rng(seed).permutation(len(grid))
    free = np.ones(len(grid), dtype=bool)
    for _ in grid:
        left = np.flatnonzero(free)
        shared = np.minimum(lengths, longest) - position
        for cost in (*taken[:4], -shared, *taken[4:], tie):
            left = left[cost[left] == cost[left].min()]
        cell = int(left[0])
        free[cell] = False
        longest[path == path[cell]] = max(longest[cell], lengths[cell])
        for count, level in zip(taken, levels, strict=True):
            for values in level:
                count += values == values[cell]
        yield cell


def balanced_order(cases: Sequence[Case], seed: int) -> list[Case]:
    """Order cases so that every prefix is balanced over needles, lengths and depths."""
    grid = [(case.needle_id, case.length, round(case.depth, -1)) for case in cases]
    return [cases[i] for i in balanced_cells(grid, seed)]


def _kind_of_cells(
    grid: Sequence[tuple[int, int, float]], kinds: Sequence[str | None]
) -> Int[np.ndarray, " cell"]:
    numbers = {kind: number for number, kind in enumerate(dict.fromkeys(kinds))}
    return np.array([numbers[kinds[needle]] for needle, _, _ in grid])


def _pairs(
    one: Int[np.ndarray, " cell"], other: Int[np.ndarray, " cell"]
) -> Int[np.ndarray, " cell"]:
    both: np.ndarray = one * (other.max() + 1) + other
    return both

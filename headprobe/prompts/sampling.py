"""Order cases so that every prefix of the order is balanced over needles, lengths and depths."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int

from headprobe.prompts.case import Case


def balanced_cells(
    grid: Sequence[tuple[int, int, float]], seed: int, *, kinds: Sequence[str | None] | None = None
) -> Iterator[int]:
    """Yield the indices of a grid's (needle, length, depth) cells in a balanced order.

    In every prefix of the order each value of an axis occurs about equally often. The next cell is
    always the one whose needle was taken least, then its pair of length and depth, then its length
    and its depth, then its pairs of needle and length or depth; the seed decides between equals.

    Args:
        grid: the cells.
        seed: decides between equally good cells.
        kinds: the kind of every needle, if kinds are to be balanced too: of needles taken equally
            often, one of the least taken kind is next.
    """
    needle, length, depth = (
        np.unique(axis, return_inverse=True)[1] for axis in zip(*grid, strict=True)
    )
    by_kind = [] if kinds is None else [(_kind_of_cells(grid, kinds),)]
    levels = (
        (needle,),
        *by_kind,
        (_pairs(length, depth),),
        (length, depth),
        (_pairs(needle, length), _pairs(needle, depth)),
    )
    taken = [np.zeros(len(grid), dtype=int) for _ in levels]
    tie = np.random.default_rng(seed).permutation(len(grid))
    free = np.ones(len(grid), dtype=bool)
    for _ in grid:
        left = np.flatnonzero(free)
        for count in (*taken, tie):
            left = left[count[left] == count[left].min()]
        cell = int(left[0])
        free[cell] = False
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

"""Cases taken and visited in balanced orders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int

from headprobe.prompts.case import Case


def balanced_cells(
    grid: Sequence[tuple[int, int, float]], seed: int, *, kinds: Sequence[str | None] | None = None
) -> Iterator[int]:
    """Places of all (needle, length, depth) cells of a grid, in an order with balanced prefixes.

    However few of them are taken, each value of an axis is among them about equally often. Next is
    always the cell whose needle was taken least, then its length with its depth, then either of
    them, then its needle with either; the seed decides between equals. ``kinds`` gives every
    needle's kind: of equally often taken needles, one of the kind that was taken least is next.
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
    """The cases in an order of which every prefix is balanced over needles, lengths and depths."""
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

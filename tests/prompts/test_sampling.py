import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headprobe.prompts.sampling import balanced_cells


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    sizes=st.tuples(st.integers(1, 7), st.integers(1, 6), st.integers(1, 6)),
    fraction=st.floats(0, 1),
    seed=st.integers(0, 5),
)
def test_a_balanced_choice_takes_every_value_of_an_axis_about_equally_often(
    sizes: tuple[int, int, int], fraction: float, seed: int
) -> None:
    grid = [(n, 100 * (i + 1), d / 2) for n, i, d in itertools.product(*map(range, sizes))]
    limit = round(fraction * len(grid))
    order = list(balanced_cells(grid, seed))
    assert sorted(order) == list(range(len(grid)))
    chosen = [grid[i] for i in order[:limit]]
    # Needles exactly; the rest as well as a greedy choice can, less so where few cells are left.
    end = int(2 * limit > len(grid))
    for axes, most in (((0,), 1), ((1,), 2), ((2,), 2), ((1, 2), 2), ((0, 1), 3), ((0, 2), 3)):
        counts = Counter(tuple(cell[axis] for axis in axes) for cell in chosen)
        each = [counts[values] for values in {tuple(cell[axis] for axis in axes) for cell in grid}]
        assert max(each) - min(each) <= (most if axes == (0,) else most + end)


@pytest.mark.parametrize("needles", [10, 16, 24, 48])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_balanced_choice_is_exact_over_the_default_grid(needles: int, seed: int) -> None:
    grid = list(itertools.product(range(needles), range(10), [10.0 * d for d in range(10)]))
    chosen = [grid[i] for i in itertools.islice(balanced_cells(grid, seed), 200)]
    assert set(Counter((length, depth) for _, length, depth in chosen).values()) == {2}
    fractions = set(Counter(needle for needle, _, _ in chosen).values())
    assert fractions <= {200 // needles, -(-200 // needles)}


def plain_order(
    grid: list[tuple[int, int, float]], seed: int, kinds: list[str], positions: list[int]
) -> list[int]:
    """The cell with the fewest kin among those taken, kinds of kin one after the other."""
    tie = np.random.default_rng(seed).permutation(len(grid))
    taken: list[int] = []

    def kin(cell: int) -> tuple[int, ...]:
        needle, length, depth = grid[cell]
        seen = [grid[i] for i in taken]
        on_path = [
            grid[i][1] for i in taken if (grid[i][0], positions[i]) == (needle, positions[cell])
        ]
        return (
            sum(n == needle for n, _, _ in seen),
            sum(kinds[n] == kinds[needle] for n, _, _ in seen),
            sum((a, b) == (length, depth) for _, a, b in seen),
            on_path.count(length),
            -max((min(length, other) - positions[cell] for other in on_path), default=0),
            sum(a == length for _, a, _ in seen) + sum(b == depth for _, _, b in seen),
            sum((n, a) == (needle, length) for n, a, _ in seen)
            + sum((n, b) == (needle, depth) for n, _, b in seen),
            int(tie[cell]),
        )

    while len(taken) < len(grid):
        taken.append(min(set(range(len(grid))) - set(taken), key=kin))
    return taken


@pytest.mark.parametrize("seed", [0, 1])
def test_the_balanced_order_is_that_of_a_plain_loop_holes_in_the_grid_or_not(seed: int) -> None:
    whole = list(itertools.product([4, 0, 2], [300, 200, 100], [0.0, 50.0, 12.5]))
    kinds = ["copy", "", "link", "", "copy"]
    for grid in (whole, whole[:1], whole[::2] + whole[13:14]):
        # Some depths of different lengths fall on one position, some of one length too.
        positions = [round(length * depth / 100) // 40 * 40 for _, length, depth in grid]
        order = list(balanced_cells(grid, seed, kinds=kinds, positions=positions))
        assert order == plain_order(grid, seed, kinds, positions)
        alone = list(range(len(grid)))
        assert list(balanced_cells(grid, seed)) == plain_order(grid, seed, [""] * 5, alone)


@pytest.mark.parametrize("needles", [24, 48])
def test_cells_that_share_a_path_are_preferred_and_the_balance_is_as_exact(needles: int) -> None:
    depths = [100 * d / 9 for d in range(10)]
    grid = list(itertools.product(range(needles), range(1000, 10_001, 1000), depths))
    positions = [round(length * depth / 1e5) * 1000 for _, length, depth in grid]
    chosen = list(itertools.islice(balanced_cells(grid, 0, positions=positions), 200))
    assert set(Counter(grid[i][1:] for i in chosen).values()) == {2}
    counts = Counter(grid[i][0] for i in chosen).values()
    assert set(counts) <= {200 // needles, -(-200 // needles)}
    paths = Counter((grid[i][0], positions[i]) for i in chosen)
    apart = Counter(
        (grid[i][0], positions[i]) for i in itertools.islice(balanced_cells(grid, 0), 200)
    )
    assert len(paths) < 0.65 * len(apart)
    assert max(paths.values()) > 1

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from headprobe.compression.layer_view import EntryScores
from headprobe.compression.ranking import rank, select


def plainly(
    count: int,
    kept: int,
    window: int,
    sinks: int,
    worth: list[float],
    ties: list[float],
    first: list[float] | None,
) -> list[int]:
    everything = list(range(count))
    kept = min(kept, count)
    newest = everything[count - min(window, kept) :]
    oldest = everything[: min(sinks, kept - len(newest))]
    middle = everything[len(oldest) : count - len(newest)]
    free = kept - len(newest) - len(oldest)
    half = free // 2 if first else 0
    early = sorted(middle, key=lambda i: (-first[i], -ties[i], i))[:half] if first else []
    others = [i for i in middle if i not in early]
    best = sorted(others, key=lambda i: (-worth[i], -ties[i], i))
    return sorted([*oldest, *newest, *early, *best[: free - half]])


@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    kept=st.lists(st.integers(0, 45), min_size=1, max_size=3),
    window=st.integers(0, 10),
    sinks=st.integers(0, 5),
    halves=st.booleans(),
    seed=st.integers(0, 100),
    levels=st.sampled_from([2, 5, 1000]),
)
def test_what_is_chosen_equals_the_plain_rule(
    counts: list[int],
    kept: list[int],
    window: int,
    sinks: int,
    halves: bool,
    seed: int,
    levels: int,
) -> None:
    """Every head keeps each size; where heads hold less than the longest, anything follows."""
    generator = torch.Generator().manual_seed(seed)
    shape = (3, len(counts), max(1, *counts))
    worth, ties, first = torch.randint(levels, shape, generator=generator).float()
    scores = EntryScores(worth, ties, first if halves else None)
    ranking = rank(scores, torch.tensor(counts), window=window, sinks=sinks)
    heads = torch.arange(len(counts)).repeat_interleave(len(kept))
    sizes = torch.tensor(kept).repeat(len(counts))
    chosen = select(
        torch.tensor(counts)[heads],
        sizes,
        ranking.rank[heads],
        window=window,
        sinks=sinks,
        first=None if ranking.first is None else ranking.first[heads],
    )
    for row, head, size in zip(chosen, heads.tolist(), sizes.tolist(), strict=True):
        own = [numbers[head].tolist() for numbers in (worth, ties, first)]
        own[2] = own[2] if halves else None
        expected = plainly(counts[head], size, window, sinks, *own)
        assert row.nonzero().flatten().tolist() == expected

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from headprobe.compression.selection import POOL_KERNEL, rank, select


def plainly(
    count: int, kept: int, window: int, sinks: int, attention: list[float] | None
) -> list[int]:
    everything = list(range(count))
    kept = min(kept, count)
    newest = everything[count - min(window, kept) :]
    oldest = everything[: min(sinks, kept - len(newest))]
    middle = everything[len(oldest) : count - len(newest)]
    free = kept - len(newest) - len(oldest)
    if attention is None:
        return sorted([*oldest, *newest, *middle[len(middle) - free :]])
    older, half = attention[: count - len(newest)], POOL_KERNEL // 2
    pooled = [max(older[max(0, i - half) : i + half + 1]) for i in range(len(older))]
    best = sorted(middle, key=lambda i: (-pooled[i], -older[i], i))
    return sorted([*oldest, *newest, *best[:free]])


@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=4),
    kept=st.lists(st.integers(0, 45), min_size=1, max_size=3),
    window=st.integers(0, 10),
    sinks=st.integers(0, 5),
    attended=st.booleans(),
    seed=st.integers(0, 100),
    levels=st.sampled_from([2, 5, 1000]),
)
def test_selection_equals_the_plain_rule(
    counts: list[int],
    kept: list[int],
    window: int,
    sinks: int,
    attended: bool,
    seed: int,
    levels: int,
) -> None:
    """Every head is cut to each size; where heads hold less than the longest, anything follows."""
    generator = torch.Generator().manual_seed(seed)
    attention = torch.randint(levels, (len(counts), max(1, *counts)), generator=generator).float()
    ranking = rank(attention, torch.tensor(counts), window=window, sinks=sinks)
    heads = torch.arange(len(counts)).repeat_interleave(len(kept))
    sizes = torch.tensor(kept).repeat(len(counts))
    chosen = select(
        torch.tensor(counts)[heads],
        sizes,
        torch.full(heads.shape, not attended),
        ranking.rank[heads],
        window=window,
        sinks=sinks,
    )
    for row, head, size in zip(chosen, heads.tolist(), sizes.tolist(), strict=True):
        own = attention[head, : counts[head]].tolist() if attended else None
        assert row.nonzero().flatten().tolist() == plainly(counts[head], size, window, sinks, own)


@pytest.mark.parametrize("kept", [1, 4, 7])
def test_a_lone_peak_is_kept_before_its_neighbours(kept: int) -> None:
    attention, counts = torch.zeros(1, 30), torch.tensor([30])
    attention[0, 12] = 1.0
    ranking = rank(attention, counts, window=0, sinks=0)
    no = torch.tensor([False])
    chosen = select(counts, torch.tensor([kept]), no, ranking.rank, window=0, sinks=0)
    entries = chosen[0].nonzero().flatten().tolist()
    assert 12 in entries
    assert all(9 <= entry <= 15 for entry in entries)

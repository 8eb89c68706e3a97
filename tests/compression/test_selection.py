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
    count=st.integers(0, 40),
    kept=st.integers(0, 45),
    window=st.integers(0, 10),
    sinks=st.integers(0, 5),
    attended=st.booleans(),
    seed=st.integers(0, 100),
    levels=st.sampled_from([2, 5, 1000]),
)
def test_selection_equals_the_plain_rule(
    count: int, kept: int, window: int, sinks: int, attended: bool, seed: int, levels: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    attention = torch.randint(levels, (count,), generator=generator).float()
    chosen = select(
        torch.arange(count),
        kept,
        window=window,
        sinks=sinks,
        ranking=rank(attention, window=window, sinks=sinks) if attended else None,
    )
    expected = plainly(count, kept, window, sinks, attention.tolist() if attended else None)
    assert chosen.tolist() == expected


@pytest.mark.parametrize("kept", [1, 4, 7])
def test_a_lone_peak_is_kept_before_its_neighbours(kept: int) -> None:
    attention = torch.zeros(30)
    attention[12] = 1.0
    ranking = rank(attention, window=0, sinks=0)
    chosen = select(torch.arange(30), kept, window=0, sinks=0, ranking=ranking).tolist()
    assert 12 in chosen
    assert all(9 <= entry <= 15 for entry in chosen)


def test_what_comes_back_are_the_entries_themselves() -> None:
    entries = torch.tensor([3, 5, 8, 9, 20])
    ranking = rank(torch.tensor([0.0, 0, 2, 0, 0]), window=1, sinks=1)
    chosen = select(entries, 3, window=1, sinks=1, ranking=ranking)
    assert chosen.tolist() == [3, 8, 20]

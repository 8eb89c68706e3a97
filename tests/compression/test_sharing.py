from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from headprobe.compression.layer_view import EntryScores
from headprobe.compression.ranking import rank
from headprobe.compression.sharing import share


def plainly(
    head_sizes: list[int], pooled: list[list[float]], always: int, floor: float
) -> list[int]:
    """The floors first, then one entry after the other to whichever head ranks its next highest."""
    beyond = [max(head_size - always, 0) for head_size in head_sizes]
    kept = [min(int(floor * own), len(p)) for own, p in zip(beyond, pooled, strict=True)]
    for _ in range(sum(beyond) - sum(kept)):
        open_heads = [head for head, p in enumerate(pooled) if kept[head] < len(p)]
        if not open_heads:
            break
        best = max(open_heads, key=lambda head: (pooled[head][kept[head]], -head))
        kept[best] += 1
    return [min(head_size, always) + k for head_size, k in zip(head_sizes, kept, strict=True)]


@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=4),
    targets=st.lists(st.integers(0, 35), min_size=1, max_size=3),
    window=st.integers(0, 6),
    sinks=st.integers(0, 3),
    floors=st.lists(st.sampled_from([0.0, 0.2, 0.5, 1.0]), min_size=3, max_size=3),
    seed=st.integers(0, 50),
    levels=st.sampled_from([2, 1000]),
)
def test_sharing_equals_the_plain_rule(
    counts: list[int],
    targets: list[int],
    window: int,
    sinks: int,
    floors: list[float],
    seed: int,
    levels: int,
) -> None:
    """Heads share for each target by itself; no two heads need to be granted alike."""
    generator = torch.Generator().manual_seed(seed)
    attention = torch.randint(levels, (len(counts), max(1, *counts)), generator=generator).float()
    ranking = rank(EntryScores(attention), torch.tensor(counts), window=window, sinks=sinks)
    sizes = torch.tensor([[size + head for head in range(len(counts))] for size in targets])
    always = window + sinks
    own = torch.tensor(floors[: len(targets)], dtype=torch.float64)
    found = share(sizes, own, ranking.worth, ranking.counts, always=always)
    pooled = [
        row[:ranked].tolist()
        for row, ranked in zip(ranking.worth, ranking.counts.tolist(), strict=True)
    ]
    for row, head_sizes, floor in zip(found.tolist(), sizes.tolist(), own.tolist(), strict=True):
        assert row == plainly(head_sizes, pooled, always, floor)


def test_the_head_with_spread_attention_gets_more() -> None:
    attention = torch.zeros(2, 40)
    attention[0, 17:24], attention[1] = 1.0, 0.5
    ranking = rank(EntryScores(attention), torch.tensor([40, 40]), window=4, sinks=0)
    found = share(
        torch.tensor([[14, 14]] * 2),
        torch.tensor([0.2, 1.0], dtype=torch.float64),
        ranking.worth,
        ranking.counts,
        always=4,
    )
    assert found.tolist() == [[11, 17], [14, 14]]

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from headprobe.compression.selection import rank
from headprobe.compression.sharing import share


def plainly(grants: list[int], pooled: list[list[float]], always: int, floor: float) -> list[int]:
    """The floors first, then one entry after the other to whichever head ranks its next highest."""
    beyond = [max(grant - always, 0) for grant in grants]
    kept = [min(int(floor * own), len(p)) for own, p in zip(beyond, pooled, strict=True)]
    for _ in range(sum(beyond) - sum(kept)):
        open_heads = [head for head, p in enumerate(pooled) if kept[head] < len(p)]
        if not open_heads:
            break
        best = max(open_heads, key=lambda head: (pooled[head][kept[head]], -head))
        kept[best] += 1
    return [min(grant, always) + k for grant, k in zip(grants, kept, strict=True)]


@given(
    count=st.integers(0, 30),
    grants=st.lists(st.integers(0, 35), min_size=1, max_size=4),
    window=st.integers(0, 6),
    sinks=st.integers(0, 3),
    floor=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
    seed=st.integers(0, 50),
    levels=st.sampled_from([2, 1000]),
)
def test_sharing_equals_the_plain_rule(
    count: int, grants: list[int], window: int, sinks: int, floor: float, seed: int, levels: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rankings = [
        rank(
            torch.randint(levels, (count,), generator=generator).float(), window=window, sinks=sinks
        )
        for _ in grants
    ]
    always = window + sinks
    found = share(grants, rankings, always=always, floor=floor)
    assert found == plainly(grants, [r.pooled.tolist() for r in rankings], always, floor)


def test_the_head_with_spread_attention_gets_more() -> None:
    peak, spread = torch.zeros(40), torch.full((40,), 0.5)
    peak[20] = 1.0
    rankings = [rank(attention, window=4, sinks=0) for attention in (peak, spread)]
    assert share([14, 14], rankings, always=4, floor=0.2) == [11, 17]
    assert share([14, 14], rankings, always=4, floor=1.0) == [14, 14]

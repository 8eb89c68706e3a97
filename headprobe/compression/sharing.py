"""What a cache is cut to: a budget as it stands, or one whose layers are shared out by attention.

Ada-KV (Feng et al., arXiv 2407.11550) decides for every prompt anew what each head of a layer
keeps: the most attended entries of all heads together, so that heads whose attention is spread
keep more of them. A floor is left to every head. The layer keeps as much as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from headprobe.budgets import HeadBudgets
from headprobe.compression.selection import Ranking


@dataclass(frozen=True, eq=False, kw_only=True)
class Target:
    """What a cache is cut to.

    With a ``floor``, 0 to 1, what a layer's heads keep between them is shared out by attention,
    prompt by prompt, and every head keeps at least that part of its own.
    """

    budgets: HeadBudgets
    floor: float | None = None

    def __post_init__(self) -> None:
        if self.floor is None:
            return
        if not 0 <= self.floor <= 1:
            raise ValueError(f"expected a floor from 0 to 1, got {self.floor}")
        if (self.budgets.selection != "attention").any():
            raise ValueError("expected heads that all select by attention, to share by it")


def share(
    grants: Sequence[int], rankings: Sequence[Ranking], *, always: int, floor: float
) -> list[int]:
    """Entries of every head, as many in all as ``grants``, those ranked highest in any head.

    ``always`` is what each head keeps whatever its attention, the newest and the oldest entries;
    what it has beyond is shared, but for the part ``floor``.
    """
    least = [int(floor * max(grant - always, 0)) for grant in grants]
    least = [min(count, len(r.pooled)) for count, r in zip(least, rankings, strict=True)]
    pool = sum(max(grant - always, 0) for grant in grants) - sum(least)
    rest = [r.pooled[count:] for r, count in zip(rankings, least, strict=True)]
    owner: Int[Tensor, " key"] = torch.arange(len(rest)).repeat_interleave(
        torch.tensor([len(pooled) for pooled in rest])
    )
    best = torch.cat(rest).argsort(descending=True, stable=True)[:pool].cpu()
    won = owner[best].bincount(minlength=len(rest)).tolist()
    return [
        min(grant, always) + sure + more
        for grant, sure, more in zip(grants, least, won, strict=True)
    ]

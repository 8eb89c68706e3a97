"""The target of a compression: a budget, or one whose layers are divided anew by attention.

Ada-KV (Feng et al., arXiv 2407.11550) decides for every prompt anew what each head of a layer
keeps: the most attended entries of all heads together, so that heads whose attention is spread
keep more of them. A floor is left to every head. The layer keeps the same number of entries.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from headprobe.budgets import HeadBudgets
from headprobe.compression.ranking import Ranking


@dataclass(frozen=True, eq=False, kw_only=True)
class Target:
    """The budget that a cache is compressed to.

    With a ``floor``, 0 to 1, what a layer's heads keep between them is divided by attention,
    prompt by prompt, and every head keeps at least that fraction of its own entries.
    """

    budgets: HeadBudgets
    floor: float | None = None

    def __post_init__(self) -> None:
        if self.floor is None:
            return
        if not 0 <= self.floor <= 1:
            raise ValueError(f"expected a floor from 0 to 1, got {self.floor}")
        if (self.budgets.selection != "attention").any():
            raise ValueError("expected heads that all select by attention, to divide by it")


def share_by_attention(
    sizes: Int64[Tensor, "target head"],
    floors: Float[Tensor, " target"],
    ranking: Ranking,
    *,
    always: int,
) -> Int64[Tensor, "target head"]:
    """Divide each target's entries of a layer by attention over all heads of the layer.

    ``always`` is the number of newest and oldest entries that each head keeps whatever its
    attention; its entries beyond are shared, except for the fraction ``floors``.
    """
    beyond = (sizes - always).clamp(min=0)
    sure = torch.minimum((floors[:, None] * beyond).long(), ranking.counts)
    pool = beyond.sum(dim=1) - sure.sum(dim=1)
    keys = ranking.worth.shape[1]
    # In one order of all heads' entries, the entries that no head is sure of already.
    order = ranking.worth.flatten().argsort(descending=True, stable=True)
    head, place = order // keys, order % keys
    open_ = (place >= sure[:, head]) & (place < ranking.counts[head])
    won = open_ & (open_.cumsum(dim=1) <= pool[:, None])
    more = torch.zeros_like(sizes).index_add_(1, head, won.long())
    return sizes.clamp(max=always) + sure + more

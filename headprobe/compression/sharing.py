"""Divide among heads what they keep between them, by what their entries are worth.

Ada-KV (Feng et al., arXiv 2407.11550) decides for every prompt anew what each head of a layer
keeps: the most attended entries of all heads together, so that heads whose attention is spread
keep more of them. A floor is left to every head. The layer keeps the same number of entries. KVzip
(Kim et al., arXiv 2505.23416) does so by its own scores with the heads of all layers, without a
floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from headprobe.budgets import HeadBudgets
from headprobe.compression.target import Rule, Target

if TYPE_CHECKING:
    from headprobe.compression.layer import BudgetLayer


def share_across_model(targets: Sequence[Target], layers: Sequence[BudgetLayer]) -> list[Target]:
    """Give every target whose heads share across the model a budget of what each of them keeps.

    Layers with a sliding window that hold fewer tokens than others keep what they had.

    Args:
        targets: the targets; those whose heads do not share across the model stay as they are.
        layers: the layers of one sequence, not compressed.
    """
    shared: dict[Rule, list[int]] = {}
    for at, target in enumerate(targets):
        if target.across == "model":
            shared.setdefault(target.shared_rule, []).append(at)
    divided = [*targets]
    for rule, own in shared.items():
        found = _divide(rule, [targets[at] for at in own], layers)
        for at, budgets in zip(own, found, strict=True):
            divided[at] = Target(budgets=budgets)
    return divided


def _divide(
    rule: Rule, targets: Sequence[Target], layers: Sequence[BudgetLayer]
) -> list[HeadBudgets]:
    """Divide what the heads of the layers that hold every token keep between them."""
    capacities = [layer.capacity for layer in layers]
    tokens = max(capacities)
    layers = [one for one, held in zip(layers, capacities, strict=True) if held == tokens]
    ranked = [layer.ranking(rule, targets) for layer in layers]
    device = ranked[0].worth.device
    indices = [layer.index for layer in layers]
    kept = np.stack([target.budgets.kept(tokens) for target in targets])
    found = share(
        torch.from_numpy(kept[:, indices]).flatten(1).to(device),
        torch.tensor([target.floor for target in targets], dtype=torch.float64, device=device),
        torch.cat([one.worth.to(device) for one in ranked]),
        torch.cat([one.counts.to(device) for one in ranked]),
        always=rule.window + rule.sinks,
    )
    divided = []
    for target, sizes in zip(targets, found.cpu().numpy(), strict=True):
        entries, ratio = target.budgets.tokens.copy(), target.budgets.ratio.copy()
        entries[indices], ratio[indices] = sizes.reshape(len(indices), -1), 0
        divided.append(replace(target.budgets, tokens=entries, ratio=ratio))
    return divided


def share(
    sizes: Int64[Tensor, "target head"],
    floors: Float[Tensor, " target"],
    worth: Float[Tensor, "head key"],
    counts: Int64[Tensor, " head"],
    *,
    always: int,
) -> Int64[Tensor, "target head"]:
    """Divide each target's entries among heads by what the heads' entries are worth.

    Args:
        sizes: the entries of every head as the target's budget has them.
        floors: the fraction of its entries beyond ``always`` that every head keeps, 0 to 1.
        worth: that of the ranked entries of each head, the highest first (``Ranking``).
        counts: the number of ranked entries of each head.
        always: the number of newest and oldest entries that each head keeps whatever they are
            worth.
    """
    beyond = (sizes - always).clamp(min=0)
    sure = torch.minimum((floors[:, None] * beyond).long(), counts)
    pool = beyond.sum(dim=1) - sure.sum(dim=1)
    keys = worth.shape[1]
    # In one order of all heads' entries, the entries that no head is sure of already.
    order = worth.flatten().argsort(descending=True, stable=True)
    head, place = order // keys, order % keys
    open_ = (place >= sure[:, head]) & (place < counts[head])
    won = open_ & (open_.cumsum(dim=1) <= pool[:, None])
    more = torch.zeros_like(sizes).index_add_(1, head, won.long())
    return sizes.clamp(max=always) + sure + more

"""Divide among heads what they keep between them, by what their entries are worth.

Ada-KV (Feng et al., arXiv 2407.11550) decides for every prompt anew what each head of a layer
keeps: the most attended entries of all heads together, so that heads whose attention is spread
keep more of them. A floor is left to every head. The layer keeps the same number of entries. KVzip
(Kim et al., arXiv 2505.23416) does so by its own scores with the heads of all layers, without a
floor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import pad

from headprobe.compression.ranking import Ranking
from headprobe.compression.target import Rule, Target


def share_across_model(
    targets: Sequence[Target],
    rankings: Callable[[Rule], Mapping[int, Ranking]],
    tokens: Mapping[int, int],
) -> list[Target]:
    """Give every target whose heads share across the model a budget of what each of them keeps.

    Args:
        targets: the targets; those whose heads do not share across the model stay as they are.
        rankings: ranks the entries of each layer that is compressed, one sequence's.
        tokens: the entries that a head of each of these layers can hold.
    """
    shared: dict[Rule, list[int]] = {}
    for at, target in enumerate(targets):
        if target.floor is not None and target.across == "model":
            shared.setdefault(target.shared_rule, []).append(at)
    divided = [*targets]
    for rule, own in shared.items():
        layers = rankings(rule)
        keys = max(one.worth.shape[1] for one in layers.values())
        worth = [
            pad(one.worth, (0, keys - one.worth.shape[1]), value=-torch.inf)
            for one in layers.values()
        ]
        sizes = np.stack(
            [[targets[at].budgets.kept(tokens[layer])[layer] for layer in layers] for at in own]
        )
        device = worth[0].device
        found = share(
            torch.from_numpy(sizes).flatten(1).to(device),
            torch.tensor([targets[at].floor for at in own], dtype=torch.float64, device=device),
            torch.cat(worth),
            torch.cat([one.counts for one in layers.values()]),
            always=rule.window + rule.sinks,
        )
        for at, kept in zip(own, found.cpu().numpy().reshape(sizes.shape), strict=True):
            budgets = targets[at].budgets
            table = np.zeros_like(budgets.tokens)
            table[[*layers]] = kept
            whole = replace(budgets, tokens=table, ratio=np.zeros_like(budgets.ratio))
            divided[at] = Target(budgets=whole)
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

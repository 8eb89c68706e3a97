"""Choose the entries that heads keep: the most attended (SnapKV, arXiv 2404.14469) or the newest.

SnapKV lets the newest queries choose: the attention that they give to older entries is spread to
the neighbours by a max-pool, so that what is kept stays in one piece, and the highest are kept
beside the window of newest entries. HeadKV (arXiv 2410.19258) does so inside each head.
StreamingLLM (arXiv 2309.17453) keeps the first entries and the newest.

All heads are ranked in one sort, and whatever a budget leaves them is a prefix of that order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor
from torch.nn.functional import max_pool1d

POOL_KERNEL = 7


@dataclass(frozen=True, eq=False, kw_only=True)
class Ranking:
    """The entries of some heads between each head's oldest and newest, the most attended first.

    ``rank`` is each entry's place in its head's order; entries that are not ranked come last.
    ``pooled`` is the attention of the ranked, spread to neighbours, in their order, and minus
    infinity after them. ``counts`` says how many are ranked.
    """

    rank: Int64[Tensor, "head_entries key"]
    pooled: Float32[Tensor, "head_entries key"]
    counts: Int64[Tensor, " head_entries"]


def rank(
    attention: Float32[Tensor, "head_entries key"],
    counts: Int64[Tensor, " head_entries"],
    *,
    window: int,
    sinks: int,
) -> Ranking:
    """Rank by attention the entries after the ``sinks`` oldest and before the ``window`` newest.

    Of each head the first ``counts`` columns are entries. A pooled peak is a plateau as wide as
    the kernel: among equals the entry that is itself attended most goes first, then the older.
    """
    key = torch.arange(attention.shape[1], device=attention.device)
    stop = (counts - window).clamp(min=0)[:, None]
    older = attention.masked_fill(key >= stop, -torch.inf)
    pooled = max_pool1d(older, POOL_KERNEL, stride=1, padding=POOL_KERNEL // 2)
    unranked = (key < sinks) | (key >= stop)
    pooled, older = (values.masked_fill(unranked, -torch.inf) for values in (pooled, older))
    by_own = older.argsort(dim=1, descending=True, stable=True)
    pooled, by_pool = pooled.gather(1, by_own).sort(dim=1, descending=True, stable=True)
    order = by_own.gather(1, by_pool)
    return Ranking(
        rank=torch.empty_like(order).scatter_(1, order, key.expand_as(order)),
        pooled=pooled,
        counts=(stop[:, 0] - sinks).clamp(min=0),
    )


def select(
    counts: Int64[Tensor, " choice"],
    sizes: Int64[Tensor, " choice"],
    streaming: Bool[Tensor, " choice"],
    rank: Int64[Tensor, "choice key"],
    *,
    window: int,
    sinks: int,
) -> Bool[Tensor, "choice key"]:
    """Choose ``sizes`` of the first ``counts`` entries of a head; all where there are no more.

    The ``window`` newest come first, as far as the size reaches, then the ``sinks`` oldest, then
    the first in ``rank`` by that window and these sinks, or the newest where it is ``streaming``.
    """
    sizes = torch.minimum(sizes, counts)
    newest = sizes.clamp(max=window)
    oldest = (sizes - newest).clamp(max=sinks)
    ranked = (sizes - newest - oldest).masked_fill(streaming, 0)
    newest = torch.where(sizes == counts, counts, sizes - oldest - ranked)
    key = torch.arange(rank.shape[1], device=rank.device)
    kept = (key >= (counts - newest)[:, None]) | (key < oldest[:, None]) | (rank < ranked[:, None])
    return kept & (key < counts[:, None])

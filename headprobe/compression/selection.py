"""Which entries a head keeps: the most attended (SnapKV, arXiv 2404.14469) or the newest.

SnapKV lets the newest queries choose: the attention that they give to older entries is spread to
the neighbours by a max-pool, so that what is kept stays in one piece, and the highest are kept
beside the window of newest entries. HeadKV (arXiv 2410.19258) does so inside each head.
StreamingLLM (arXiv 2309.17453) keeps the first entries and the newest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.nn.functional import max_pool1d

POOL_KERNEL = 7


@dataclass(frozen=True, eq=False, kw_only=True)
class Ranking:
    """A head's entries between its oldest and its newest, the most attended first.

    ``places`` are indices of entries, ``pooled`` is the attention of each spread to neighbours.
    """

    places: Int64[Tensor, " key"]
    pooled: Float32[Tensor, " key"]


def rank(attention: Float32[Tensor, " key"], *, window: int, sinks: int) -> Ranking:
    """The entries behind the ``sinks`` oldest and before the ``window`` newest, by attention.

    A pooled peak is a plateau as wide as the kernel: among equals the entry that is itself attended
    most goes first, then the older.
    """
    older = attention[: max(len(attention) - window, 0)]
    if len(older) <= sinks:
        return Ranking(places=older[:0].long(), pooled=older[:0])
    half = POOL_KERNEL // 2
    pooled = max_pool1d(older[None], POOL_KERNEL, stride=1, padding=half)[0, sinks:]
    by_own = older[sinks:].argsort(descending=True, stable=True)
    by_pool = pooled[by_own].argsort(descending=True, stable=True)
    places = by_own[by_pool]
    return Ranking(places=places + sinks, pooled=pooled[places])


def select(
    entries: Int64[Tensor, " key"],
    kept: int,
    *,
    window: int,
    sinks: int,
    ranking: Ranking | None,
) -> Int64[Tensor, " kept"]:
    """The entries to keep, no more than ``kept``, in their order, which is from old to new.

    The ``window`` newest come first, as far as ``kept`` reaches, then the ``sinks`` oldest, then
    the first of the ``ranking`` by that window and these sinks, or the newest where it is ``None``.
    """
    count = len(entries)
    if kept >= count:
        return entries
    newest = min(kept, window)
    oldest = min(kept - newest, sinks)
    free = kept - newest - oldest
    if ranking is None or free == 0:
        return torch.cat([entries[:oldest], entries[count - newest - free :]])
    picked = ranking.places[:free].sort().values
    return torch.cat([entries[:oldest], entries[picked], entries[count - newest :]])

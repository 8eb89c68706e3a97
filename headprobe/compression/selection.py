"""Which entries a head keeps: the most attended (SnapKV, arXiv 2404.14469) or the newest.

SnapKV lets the newest queries choose: the attention that they give to older entries is spread to
the neighbours by a max-pool, so that what is kept stays in one piece, and the highest are kept
beside the window of newest entries. HeadKV (arXiv 2410.19258) does so inside each head.
StreamingLLM (arXiv 2309.17453) keeps the first entries and the newest.
"""

from __future__ import annotations

import torch
from jaxtyping import Float32, Int64
from torch import Tensor
from torch.nn.functional import max_pool1d

POOL_KERNEL = 7


def select(
    entries: Int64[Tensor, " key"],
    kept: int,
    *,
    window: int,
    sinks: int,
    attention: Float32[Tensor, " key"] | None,
) -> Int64[Tensor, " kept"]:
    """The entries to keep, no more than ``kept``, in their order, which is from old to new.

    The ``window`` newest come first, as far as ``kept`` reaches, then the ``sinks`` oldest, then
    those with the most ``attention``, or the newest where it is ``None``.
    """
    count = len(entries)
    if kept >= count:
        return entries
    newest = min(kept, window)
    oldest = min(kept - newest, sinks)
    free = kept - newest - oldest
    if attention is None or free == 0:
        return torch.cat([entries[:oldest], entries[count - newest - free :]])
    picked = oldest + _most_attended(attention[: count - newest], free, first=oldest)
    return torch.cat([entries[:oldest], entries[picked], entries[count - newest :]])


def _most_attended(
    attention: Float32[Tensor, " key"], number: int, *, first: int
) -> Int64[Tensor, " number"]:
    """Places behind ``first`` of the highest pooled attention, ascending.

    A pooled peak is a plateau as wide as the kernel: among equals the entry that is itself attended
    most goes first, then the older.
    """
    half = POOL_KERNEL // 2
    pooled = max_pool1d(attention[None], POOL_KERNEL, stride=1, padding=half)[0, first:]
    by_own = attention[first:].argsort(descending=True, stable=True)
    by_pool = pooled[by_own].argsort(descending=True, stable=True)
    return by_own[by_pool[:number]].sort().values

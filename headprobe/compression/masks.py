"""Read attention masks that models make: which of the entries still held does a query see?"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from headprobe.compression.entries import COMPENSATION, PADDING
from headprobe.errors import HeadprobeError


class CausalMasks:
    """Tells causal masks from others; a mask is read once for all layers that get it."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], bool]] = {}

    def is_causal(
        self, mask: Tensor | None, queries: range, attention_kwargs: dict[str, Any]
    ) -> bool:
        """Return whether queries at these positions see every token up to their own."""
        if mask is None:
            return sees_all(None, queries, attention_kwargs)
        known, causal = self._known.get(id(mask), (None, False))
        if known is None or known() is not mask:
            causal = says_causal(mask, len(queries))
            self._known = {
                number: entry for number, entry in self._known.items() if entry[0]() is not None
            }
            self._known[id(mask)] = weakref.ref(mask), causal
        return causal


def sees_all(mask: Tensor | None, queries: range, attention_kwargs: dict[str, Any]) -> bool:
    """Return whether nothing but causality hides earlier tokens from queries at these positions."""
    window = attention_kwargs.get("sliding_window")
    return mask is None and (window is None or queries.stop <= window)


def says_causal(mask: Tensor, queries: int) -> bool:
    """Return whether a mask over all tokens shows a query every token up to its own, and no more.

    Reading the mask waits for the device.
    """
    if mask.ndim != 4 or mask.shape[2] != queries:
        return False
    tokens = mask.shape[3]
    causal = torch.ones(queries, tokens, dtype=torch.bool, device=mask.device)
    causal = causal.tril_(tokens - queries)
    if mask.dtype == torch.bool:
        return bool((mask == causal).all())
    hidden = mask <= torch.finfo(mask.dtype).min / 2
    return bool(torch.where(causal, mask == 0, hidden).all())


def seen(
    mask: Tensor | None,
    positions: Int[Tensor, "head_entries key"],
    queries: range,
    attention_kwargs: dict[str, Any],
    *,
    sequences: Int[Tensor, " head_entries"] | None = None,
) -> Shaped[Tensor, "head_entries query key"]:
    """Return what queries see of entries at some token positions.

    The result is true where a query sees an entry, or the term that is added to the score. ``mask``
    is over all token positions, kept or not; flash kernels get a mask of the padding, or none, and
    a window among the ``attention_kwargs``. ``sequences`` numbers the sequence of each head, one
    head a sequence by default. A compensation entry is always seen, padding never.
    """
    if sequences is None:
        sequences = torch.arange(len(positions), device=positions.device)
    always, never = (positions == COMPENSATION)[:, None], (positions == PADDING)[:, None]
    key = positions.long().masked_fill(positions == PADDING, 0).clamp(min=0)
    if mask is not None and mask.ndim == 4:
        new = torch.arange(len(queries), device=key.device)[:, None]
        sequences = sequences if len(mask) > 1 else torch.zeros_like(sequences)
        found = mask[sequences[:, None, None], 0, new, key[:, None]]
        if found.dtype == torch.bool:
            return (found | always) & ~never
        return found.masked_fill(always, 0.0).masked_fill(never, -torch.inf)
    window = attention_kwargs.get("sliding_window")
    distance = torch.tensor(queries, device=key.device)[:, None] - key[:, None]
    found = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    if mask is not None:
        found &= mask[sequences[:, None], key].bool()[:, None]
    return (found | always) & ~never


def check_mask(mask: Any) -> None:
    """Refuse masks that say more than which tokens a query sees.

    Raises:
        HeadprobeError: the mask is no tensor (flex attention), or differs between heads.
    """
    if mask is None or (isinstance(mask, Tensor) and (mask.ndim == 2 or mask.shape[1] == 1)):
        return
    raise HeadprobeError(
        "cannot compress the cache of attention whose mask is no tensor or differs between heads; "
        "try the model with attn_implementation='sdpa'"
    )

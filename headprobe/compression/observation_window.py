"""The newest queries of a layer, by whose attention a compression chooses entries (SnapKV)."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Collection
from typing import Any

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from headprobe.attention.rows import attention_rows
from headprobe.compression.held import Held
from headprobe.compression.layer_view import WindowAttention
from headprobe.compression.masks import seen, sees_all

_SCORE_KWARGS = ("scaling", "softcap", "s_aux", "sliding_window")
_ROW_BYTES = 2**28
"""The most bytes of softmax rows at a time, unless one KV head takes more."""


class ObservationWindow:
    """The newest queries of a layer, and which tokens the last of them sees."""

    def __init__(self) -> None:
        self._recent: deque[Tensor] = deque()
        self._mask: Tensor | None = None
        self._attention_kwargs: dict[str, Any] = {}

    def copy(self) -> ObservationWindow:
        """Return a window of the same queries; what either sees later is its own."""
        copied = copy.copy(self)
        copied._recent = self._recent.copy()
        return copied

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors that the window holds."""
        return [*self._recent, *([] if self._mask is None else [self._mask])]

    @property
    def size(self) -> int:
        """The number of queries that the window holds."""
        return sum(part.shape[2] for part in self._recent)

    @property
    def scaling(self) -> float:
        """The factor on the products of queries and keys."""
        given = self._attention_kwargs.get("scaling")
        return float(self._recent[-1].shape[-1] ** -0.5 if given is None else given)

    @property
    def is_empty(self) -> bool:
        """True where the window holds no query."""
        return not self._recent

    @property
    def sequences(self) -> int:
        """The number of sequences whose queries the window holds."""
        return len(self._recent[-1])

    def watch(
        self,
        query: Float[Tensor, "batch query_head query head_dim"],
        mask: Tensor | None,
        attention_kwargs: dict[str, Any],
        *,
        newest: int,
    ) -> None:
        """Add queries, and drop queries that are not among the ``newest``."""
        # Of some models the query is a view of more.
        self._recent.append(query[:, :, -newest:].clone())
        while self.size - self._recent[0].shape[2] >= newest:
            self._recent.popleft()
        self._mask = mask[:, :, -1:].clone() if mask is not None and mask.ndim == 4 else mask
        self._attention_kwargs = {name: attention_kwargs.get(name) for name in _SCORE_KWARGS}

    def take(self, sequences: Tensor) -> None:
        """Keep these sequences of the batch."""
        self._recent = deque(part[sequences.to(part.device)] for part in self._recent)
        if self._mask is not None and len(self._mask) > 1:
            self._mask = self._mask[sequences.to(self._mask.device)]

    def visible(self, tokens: int) -> Bool[Tensor, "sequence token"] | None:
        """Mark the tokens that the newest query sees: no padding, none outside a sliding window.

        ``None`` stands for all tokens.

        Raises:
            ValueError: a sequence ends in padding.
        """
        last = range(tokens - 1, tokens)
        if sees_all(self._mask, last, self._attention_kwargs):
            return None
        device = self._recent[-1].device
        positions = torch.arange(tokens, device=device).expand(self.sequences, -1)
        found = seen(self._mask, positions, last, self._attention_kwargs)
        if found.dtype != torch.bool:
            found = found > torch.finfo(found.dtype).min / 2
        visible = found[:, 0]
        if not visible[:, -1].all():
            raise ValueError("expected padding on the left, got a sequence that ends in it")
        return visible

    def attention(
        self,
        held: Held,
        visible: Bool[Tensor, "sequence token"] | None,
        windows: Collection[int],
        *,
        tokens: int,
    ) -> dict[int, WindowAttention]:
        """Compute the attention of the newest queries to the held entries, for each of ``windows``.

        A window is a number of newest queries. Query heads are numbered sequence by sequence.
        """
        recent = torch.cat(list(self._recent), dim=2)
        newest = recent[:, :, -max(1, *windows) :].flatten(0, 1)
        mask, real = self._mask_of(held, visible, range(tokens - newest.shape[1], tokens))
        group = len(newest) // len(held.keys)
        row_bytes = 4 * group * newest.shape[1] * held.keys.shape[1]
        step = max(1, _ROW_BYTES // row_bytes)
        parts: dict[int, list[WindowAttention]] = {window: [] for window in windows}
        for start in range(0, len(held.keys), step):
            heads = slice(start * group, (start + step) * group)
            rows = attention_rows(
                newest[heads],
                held.keys[start : start + step].float(),
                mask if len(mask) == 1 else mask[heads],
                self._terms_of(heads, len(newest)),
            )
            # A query whose own entry was evicted may see none.
            rows = rows.nan_to_num_()
            for window, found in parts.items():
                own = slice(-max(window, 1), None)
                weights = (real if len(real) == 1 else real[heads])[:, own]
                counted = rows[:, own] * weights[..., None]
                mean = counted.sum(dim=1) / weights.sum(dim=1, keepdim=True)
                found.append(WindowAttention(mean, counted.amax(dim=1)))
        return {
            window: WindowAttention(*map(torch.cat, zip(*found, strict=True)))
            for window, found in parts.items()
        }

    def _mask_of(
        self, held: Held, visible: Bool[Tensor, "sequence token"] | None, at: range
    ) -> tuple[Float32[Tensor, "#query_head query key"], Float32[Tensor, "#query_head query"]]:
        """Build the queries' mask at these positions, and mark the queries that are no padding."""
        device = held.keys.device
        known = held.positions[:, None] <= torch.tensor(at, device=device)[:, None]
        if not held.is_whole:
            there = held.is_compensation | held.seen(visible, tokens=at.stop)
            known = known[held.source] & there[:, None]
        elif visible is not None:
            known = known & visible[:, None]
        mask = torch.zeros(known.shape, device=device).masked_fill_(~known, -torch.inf)
        if any(held.weights):
            weights = torch.tensor(held.weights, device=device)
            mask[:, :, 0] += weights.clamp(min=1).log()[:, None]
        real = torch.ones(1, len(at), device=device)
        if visible is not None:
            real = visible[:, at.start : at.stop].float()
        query_heads = self._recent[-1].shape[1] * self.sequences
        mask, real = (
            one if len(one) == 1 else one.repeat_interleave(query_heads // len(one), dim=0)
            for one in (mask, real)
        )
        return mask, real

    def _terms_of(self, heads: slice, count: int) -> dict[str, Any]:
        """Return the attention arguments with the attention sinks of some query heads alone."""
        sinks = self._attention_kwargs.get("s_aux")
        if sinks is None:
            return self._attention_kwargs
        return self._attention_kwargs | {"s_aux": sinks.repeat(count // len(sinks))[heads]}

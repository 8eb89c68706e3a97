"""The record of what a layer's heads hold before a compression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor

from headprobe.compression.entries import COMPENSATION
from headprobe.compression.ragged import Ragged


@dataclass(frozen=True, eq=False, kw_only=True)
class Held:
    """The entries of a layer's heads before they are compressed, padded to one length.

    Heads are numbered sequence by sequence. Heads of one KV head may share its keys and values:
    ``source`` is the row of every head. ``weights`` are the tokens that a head's first entry stands
    for, or 0; its position is ``COMPENSATION``, the position of padding ``PADDING``. ``is_whole``
    says that there is neither, and that every token is there.
    """

    keys: Float[Tensor, "row key head_dim"]
    values: Float[Tensor, "row key value_dim"]
    positions: Int32[Tensor, "#row key"]
    weights: Sequence[int]
    source: Int64[Tensor, " head_entries"]
    is_whole: bool

    @classmethod
    def of_whole(
        cls,
        keys: Float[Tensor, "sequence kv_head token head_dim"],
        values: Float[Tensor, "sequence kv_head token value_dim"],
        *,
        heads: int,
    ) -> Held:
        """Collect every token; the ``heads`` of a sequence share its KV heads."""
        sequences, kv_heads, tokens, _ = keys.shape
        count = sequences * heads
        return cls(
            keys=keys.flatten(0, 1),
            values=values.flatten(0, 1),
            positions=torch.arange(tokens, dtype=torch.int32, device=keys.device)[None],
            weights=[0] * count,
            source=torch.arange(count, device=keys.device) // (heads // kv_heads),
            is_whole=True,
        )

    @classmethod
    def of_ragged(cls, ragged: Ragged) -> Held:
        """Collect what the heads of a compressed layer hold."""
        block, place = ragged.padded(positions=True), ragged.slots.place
        assert block.positions is not None
        keys, values, positions = (
            stored if place is None else stored[place]
            for stored in (block.keys, block.values, block.positions)
        )
        return cls(
            keys=keys,
            values=values,
            positions=positions,
            weights=ragged.weights,
            source=torch.arange(len(keys), device=keys.device),
            is_whole=False,
        )

    def seen(
        self, visible: Bool[Tensor, "sequence token"] | None, *, tokens: int
    ) -> Bool[Tensor, "head_entries key"]:
        """Mark the entries of visible tokens (``None``: all), without compensation and padding."""
        positions = self.positions.expand(len(self.keys), -1)[self.source].long()
        token = (positions >= 0) & (positions < tokens)
        if visible is None:
            return token
        sequences = visible.repeat_interleave(len(positions) // len(visible), dim=0)
        return token & sequences.gather(1, positions.clamp(0, tokens - 1))

    @property
    def is_compensation(self) -> Bool[Tensor, "head_entries key"]:
        """The entries that stand for dropped ones, marked."""
        return self.positions.expand(len(self.keys), -1)[self.source] == COMPENSATION

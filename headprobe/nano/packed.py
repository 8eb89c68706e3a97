"""Many questions about one context in one sequence: each sees the context and itself only.

Training on a context with its questions one behind the other would let a question read the answers
of those before it. Here every question stands right behind the context, as when asked alone. Parts
of the context can be hidden from a question, so that they are looked up where the answer is given
and not while the question is read; and a sentence of the context can be kept from seeing the
others, so that no fact is carried away from where it is told.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

NAME = "packed_questions"


@dataclass(frozen=True, eq=False, kw_only=True)
class Packing:
    """How a batch is packed, and the queries and keys that its forward leaves behind.

    The first ``context`` tokens of a row are the context, then come slots of ``slot`` tokens.
    ``hidden`` says from which token of the context to which other is hidden from how many tokens
    at the start of the slot. ``sentence`` numbers the context's sentences if each sees itself and
    the first token only. ``kept`` is filled for the layers in it: rotated queries and keys, [row,
    head, token, head_dim], a key head for every query head.
    """

    context: int
    slot: int
    hidden: Int[Tensor, "row slot 3"]
    sentence: Int[Tensor, "row context"] | None = None
    kept: dict[int, tuple[Tensor, Tensor] | None] = field(default_factory=dict)

    @cached_property
    def context_mask(self) -> Bool[Tensor, "row 1 query key"] | None:
        """What a token of the context sees of it; None where attention is just causal."""
        if self.sentence is None:
            return None
        place = torch.arange(self.context)
        same = (self.sentence[:, :, None] == self.sentence[:, None]) | (place == 0)
        return (same & (place[:, None] >= place))[:, None]

    @cached_property
    def slot_mask(self) -> Bool[Tensor, "row 1 query key"]:
        """What each token in the slots sees of the whole row."""
        rows, slots, _ = self.hidden.shape
        size = self.slot
        behind = slots * size
        place = torch.arange(behind)
        slot = place // size
        own = (slot[:, None] == slot) & (place[:, None] >= place)
        start, stop, until = self.hidden[:, slot].unsqueeze(-1).unbind(2)
        key = torch.arange(self.context)
        covered = (place % size)[:, None] < until
        front = ~((key >= start) & (key < stop) & covered)
        return torch.cat([front, own.expand(rows, -1, -1)], dim=2)[:, None]


def use_packed_questions(model: PreTrainedModel) -> None:
    """Let ``model``'s forward take a ``packing`` (``Packing``); without one attention is causal."""
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, _no_mask)
    model.set_attn_implementation(NAME)


def _no_mask(*_: Any, **__: Any) -> None:
    """No mask is built beforehand: which key is seen follows from the place alone."""


def _attend(
    module: Any,
    query: Float[Tensor, "batch query_head token head_dim"],
    key: Float[Tensor, "batch kv_head token head_dim"],
    value: Float[Tensor, "batch kv_head token head_dim"],
    attention_mask: None,
    *,
    scaling: float,
    packing: Packing | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "batch token query_head head_dim"], None]:
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    if packing is None:
        read = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
        return read.transpose(1, 2).contiguous(), None
    if module.layer_idx in packing.kept:
        packing.kept[module.layer_idx] = (query, key)
    front = packing.context
    mask = packing.context_mask
    read = F.scaled_dot_product_attention(
        query[:, :, :front],
        key[:, :, :front],
        value[:, :, :front],
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
    )
    asked = F.scaled_dot_product_attention(
        query[:, :, front:],
        key,
        value,
        attn_mask=packing.slot_mask,
        scale=scaling,
    )
    return torch.cat([read, asked], dim=2).transpose(1, 2).contiguous(), None


def looked(
    packing: Packing, layer: int, looks: Int[Tensor, "look 3"]
) -> Float[Tensor, "look head"]:
    """How much attention a layer's heads pay: of a row's token in a slot (1st, 2nd) to another.

    Raises:
        ValueError: the layer's queries and keys were not kept.
    """
    kept = packing.kept.get(layer)
    if kept is None:
        raise ValueError(f"expected queries and keys of layer {layer}, got none")
    query, key = kept
    paid = query.new_zeros(len(looks), query.shape[1], dtype=torch.float32)
    for row in torch.unique(looks[:, 0]):
        here = (looks[:, 0] == row).nonzero().flatten()
        asking, told = looks[here, 1], looks[here, 2]
        score = (query[row, :, asking] @ key[row].mT).float() * query.shape[-1] ** -0.5
        seen = packing.slot_mask[row, 0, asking - packing.context]
        share = score.masked_fill(~seen, -torch.inf).softmax(-1)
        paid = paid.index_copy(0, here, share[:, torch.arange(len(here)), told].T)
    return paid

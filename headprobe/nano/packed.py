"""Pack many questions about one context into a sequence, so that none sees the others.

Training on a context with its questions one after the other would let a question read the answers
of earlier questions. Here every question stands right after the context, as when asked alone. Parts
of the context can be hidden from a question, so that the model looks them up while it writes the
answer and not while it reads the question; and a sentence of the context can be kept from seeing
the others, so that a fact is held only by its own tokens.
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
    """The packing of a batch, and the queries and keys that the forward pass stores in it.

    The first ``context`` tokens of a row are the context, then come slots of ``slot`` tokens.
    ``hidden`` gives a range of the context's tokens, and the number of tokens at the start of the
    slot from which they are hidden. ``sentence`` numbers the context's sentences if each sees only
    itself and the first token. ``kept`` is filled for the layers in it: rotated queries and keys,
    [row, head, token, head_dim], a key head for every query head.
    """

    context: int
    slot: int
    hidden: Int[Tensor, "row slot 3"]
    sentence: Int[Tensor, "row context"] | None = None
    kept: dict[int, tuple[Tensor, Tensor] | None] = field(default_factory=dict)

    @cached_property
    def context_mask(self) -> Bool[Tensor, "row 1 query key"] | None:
        """The mask from the context's tokens to the context; ``None`` where it is just causal."""
        if self.sentence is None:
            return None
        place = torch.arange(self.context)
        same = (self.sentence[:, :, None] == self.sentence[:, None]) | (place == 0)
        return (same & (place[:, None] >= place))[:, None]

    @cached_property
    def slot_mask(self) -> Bool[Tensor, "row 1 query key"]:
        """The mask from each token in the slots to the whole row."""
        rows, slots, _ = self.hidden.shape
        size = self.slot
        count = slots * size
        place = torch.arange(count)
        slot = place // size
        own = (slot[:, None] == slot) & (place[:, None] >= place)
        start, stop, until = self.hidden[:, slot].unsqueeze(-1).unbind(2)
        key = torch.arange(self.context)
        covered = (place % size)[:, None] < until
        front = ~((key >= start) & (key < stop) & covered)
        return torch.cat([front, own.expand(rows, -1, -1)], dim=2)[:, None]


def use_packed_questions(model: PreTrainedModel) -> None:
    """Let the model's forward take a ``packing``; without one attention is causal."""
    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, _no_mask)
    model.set_attn_implementation(NAME)


def _no_mask(*_: Any, **__: Any) -> None:
    """Build no mask beforehand: a token's place alone decides the keys that it sees."""


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
    """Compute the attention that a layer's heads pay from a token in a slot to another token.

    Args:
        packing: the packing of the batch, which keeps the layer's queries and keys.
        layer: the layer.
        looks: row, asking token and told token of each wanted attention weight.

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
        weight = score.masked_fill(~seen, -torch.inf).softmax(-1)
        paid = paid.index_copy(0, here, weight[:, torch.arange(len(here)), told].T)
    return paid

"""Many questions about one context in one sequence: each sees the context and itself only.

Training on a context with its questions one behind the other would let a question read the answers
of those before it. Here every question stands right behind the context, as when asked alone. Parts
of the context can be hidden from a question, so that they are looked up where the answer is given,
and not while the question is read; and in the last layer, where all that a question means is known.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

NAME = "packed_questions"


def use_packed_questions(model: PreTrainedModel) -> None:
    """Let ``model`` take a context with questions behind it.

    Its forward takes ``context`` (tokens) and ``hidden``, integers ``[row, slot, 3]``: from which
    token of the context to which other is hidden from how many tokens at the start of the slot;
    the last of these sees it in the last layer all the same.
    Without ``context`` attention is causal.
    """
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
    context: int | None = None,
    hidden: Int[Tensor, "batch slot 3"] | None = None,
    **_: Any,
) -> tuple[Float[Tensor, "batch token query_head head_dim"], None]:
    group = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
    front = query.shape[2] if context is None else context
    read = F.scaled_dot_product_attention(
        query[:, :, :front], key[:, :, :front], value[:, :, :front], is_causal=True, scale=scaling
    )
    if context is not None and hidden is not None:
        last = module.layer_idx == module.config.num_hidden_layers - 1
        seen = _seen(context, query.shape[2] - context, hidden, last=last)
        asked = F.scaled_dot_product_attention(
            query[:, :, context:], key, value, attn_mask=seen, scale=scaling
        )
        read = torch.cat([read, asked], dim=2)
    return read.transpose(1, 2).contiguous(), None


def _seen(
    context: int, behind: int, hidden: Int[Tensor, "batch slot 3"], *, last: bool
) -> Bool[Tensor, "batch 1 query key"]:
    rows, slots, _ = hidden.shape
    size = behind // slots
    place = torch.arange(behind)
    slot = place // size
    own = (slot[:, None] == slot) & (place[:, None] >= place)
    start, stop, until = hidden[:, slot].unsqueeze(-1).unbind(2)
    key = torch.arange(context)
    covered = (place % size)[:, None] < until - int(last)
    front = ~((key >= start) & (key < stop) & covered)
    return torch.cat([front, own.expand(rows, -1, -1)], dim=2)[:, None]

"""Keep PyTorch's scaled_dot_product_attention from slow kernels and needless copies.

On Hopper PyTorch uses cuDNN's kernel by default, which makes a new plan for every new shape: 20 to
60 ms a call while lengths change from step to step. On a CPU its kernel takes up to ten times as
long for one query in bfloat16 as for the heads of a group handed to it together.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers.integrations.sdpa_attention import sdpa_attention_forward

ALLOWED = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
"""Kernels in order of preference: PyTorch uses the first that can compute the call."""

# Up to so many queries a CPU's kernel gains from having a group's heads as queries of one head.
_FEW_QUERIES = 16


def allowed_kernels(device: torch.device) -> AbstractContextManager[None]:
    """Return a context in which CUDA attention uses only kernels that need no plan per shape.

    Inside the ``with`` the kernels of ``ALLOWED`` replace the process's own choice of kernels,
    which is restored at the end. On other devices nothing changes.
    """
    if device.type != "cuda":
        return nullcontext()
    allowed: AbstractContextManager[None] = sdpa_kernel([*ALLOWED])
    return allowed


def share_heads(
    original: Callable[..., Any],
    module: Any,
    query: Float[Tensor, "batch query_head query head_dim"],
    key: Float[Tensor, "batch kv_head key head_dim"],
    value: Float[Tensor, "batch kv_head key value_dim"],
    attention_mask: Any,
    **attention_kwargs: Any,
) -> Any:
    """Return the attention function's own result without copying the KV cache per query head.

    transformers repeats keys and values for the query heads of a group where SDPA gets a mask. With
    the KV heads as batch (``attend_groups``) the group's query heads read the same memory, and the
    result is the same. One query without a mask, a decoding step, takes that way too.
    """
    batch, heads, queries, _ = query.shape
    kv_heads = key.shape[1]
    if isinstance(attention_mask, Tensor) and attention_mask.ndim == 4:
        # In older releases of transformers some masks have one key more (persimmon, stablelm).
        attention_mask = attention_mask[..., : key.shape[2]]
    if isinstance(attention_mask, Tensor):
        alike = batch == 1 and attention_mask.shape[1] == 1
    else:
        # Without a mask one query sees everything, and several are causal.
        alike = attention_mask is None and queries == 1
    plain = all(attention_kwargs.get(name) is None for name in ("softcap", "position_bias"))
    if original is not sdpa_attention_forward or not (alike and plain):
        return original(module, query, key, value, attention_mask, **attention_kwargs)
    output = attend_groups(
        query.reshape(batch * kv_heads, heads // kv_heads, queries, -1),
        key.flatten(0, 1),
        value.flatten(0, 1),
        attention_mask,
        scale=attention_kwargs.get("scaling"),
    )
    return output.reshape(batch, heads, queries, -1).transpose(1, 2).contiguous(), None


def attend_groups(
    query: Float[Tensor, "kv_head group query head_dim"],
    key: Float[Tensor, "kv_head key head_dim"],
    value: Float[Tensor, "kv_head key value_dim"],
    mask: Shaped[Tensor, "#kv_head 1 #query key"] | None,
    *,
    scale: float | None,
) -> Float[Tensor, "kv_head group query value_dim"]:
    """Compute PyTorch's attention of groups of query heads, each group over one KV head's entries.

    Few queries of a group's heads are handed to the kernel as the queries of one head, so that keys
    and values are read once for the group.

    Args:
        query: the queries by KV head and by the heads of its group.
        key: the keys of each KV head.
        value: the values of each KV head.
        mask: as PyTorch takes it, the same for a group's heads; ``None`` where all is seen.
        scale: the factor of the scores; ``None`` is one over the root of ``head_dim``.
    """
    heads, group, queries, _ = query.shape
    keys, values = key.unsqueeze(1), value.unsqueeze(1)
    if queries == 1 or (query.device.type == "cpu" and queries <= _FEW_QUERIES):
        rows = query.reshape(heads, 1, group * queries, -1)
        if mask is not None and queries > 1:
            mask = mask.expand(-1, -1, queries, -1).repeat(1, 1, group, 1)
        if _is_slow(rows):
            rows = rows.expand(-1, -1, 2, -1)
        output = scaled_dot_product_attention(rows, keys, values, attn_mask=mask, scale=scale)
        return output[:, 0, : group * queries].reshape(heads, group, queries, -1)
    keys, values = (kept.expand(-1, group, -1, -1) for kept in (keys, values))
    return scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scale)


def _is_slow(query: Float[Tensor, "kv_head 1 query head_dim"]) -> bool:
    """Tell whether two queries take PyTorch's kernel less time than this one: a third, measured."""
    return query.shape[2] == 1 and query.device.type == "cpu" and query.dtype == torch.bfloat16

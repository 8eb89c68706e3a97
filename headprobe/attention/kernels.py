"""Keep PyTorch's scaled_dot_product_attention from slow kernels and needless copies.

On Hopper PyTorch uses cuDNN's kernel by default, which makes a new plan for every new shape: 20 to
60 ms a call while lengths change from step to step.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

ALLOWED = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
"""Kernels in order of preference: PyTorch uses the first that can compute the call."""


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
    the KV heads as batch the group's query heads read the same memory, and the result is the same.
    """
    batch, heads, queries, _ = query.shape
    kv_heads = key.shape[1]
    if isinstance(attention_mask, Tensor) and attention_mask.ndim == 4:
        # In older releases of transformers some masks have one key more (persimmon, stablelm).
        attention_mask = attention_mask[..., : key.shape[2]]
    alike = isinstance(attention_mask, Tensor) and batch == 1 and attention_mask.shape[1] == 1
    plain = all(attention_kwargs.get(name) is None for name in ("softcap", "position_bias"))
    if original is not sdpa_attention_forward or heads == kv_heads or not (alike and plain):
        return original(module, query, key, value, attention_mask, **attention_kwargs)
    group = heads // kv_heads
    grouped = query[0].reshape(kv_heads, group, queries, -1)
    keys, values = (kept[0].unsqueeze(1).expand(-1, group, -1, -1) for kept in (key, value))
    output = nn.functional.scaled_dot_product_attention(
        grouped, keys, values, attn_mask=attention_mask, scale=attention_kwargs.get("scaling")
    )
    return output.reshape(1, heads, queries, -1).transpose(1, 2).contiguous(), None

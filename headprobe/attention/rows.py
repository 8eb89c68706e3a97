"""Compute attention probabilities, a row of keys for each watched query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor

from headprobe.errors import HeadprobeError

# Terms of the scores that the rows would miss: learned biases, sinks that are not one number a
# head (inkling2), and selections that a kernel applies by itself (DeepSeek-V3.2 with FlashMLA).
_UNKNOWN_KWARGS = ("position_bias", "sinks", "indices", "block_indices")


@dataclass(frozen=True, eq=False, kw_only=True)
class AttentionRows:
    """Attention probabilities of some watched queries in one layer.

    ``queries`` are token positions, one a row. The keys are the token positions 0, 1, ... up to
    the newest token. Both count from the start of the KV cache. Keys that a query does not see
    hold 0, also keys that a sliding-window cache has dropped. A row sums to 1, or to less
    where the layer has attention sinks. Where a KV cache holds several texts, the keys are those
    of all: first the positions of their common path, then others.

    ``values`` are the layer's own tensor, not a copy: the values of the newest keys, all but the
    dropped ones. ``outputs`` are the layer's own too: for each watched query the sum of the values,
    weighted by the query's row.
    """

    layer: int
    queries: Int[Tensor, " query"]
    weights: Float32[Tensor, "query_head query key"]
    values: Float[Tensor, "kv_head kept value_dim"]
    outputs: Float[Tensor, "query_head query value_dim"]


def attention_rows(
    query: Float[Tensor, "query_head query head_dim"],
    key: Float32[Tensor, "kv_head key head_dim"],
    mask: Bool[Tensor, "#query_head query key"] | Float[Tensor, "#query_head query key"],
    attention_kwargs: dict[str, Any],
) -> Float32[Tensor, "query_head query key"]:
    """Compute attention probabilities, softmax(scaling * query key^T), in float32.

    A boolean ``mask`` is true where a query sees a key; a float mask is added to the scores.
    ``attention_kwargs`` are the keywords of the attention function; of these ``scaling``,
    ``softcap`` and ``s_aux`` (an attention sink for each query head) are applied.
    """
    query_heads, queries, head_dim = query.shape
    kv_heads, keys, _ = key.shape
    scaling, softcap, attention_sinks = (
        attention_kwargs.get(name) for name in ("scaling", "softcap", "s_aux")
    )
    grouped = query.float().reshape(kv_heads, -1, head_dim)
    scores = (grouped @ key.mT).view(query_heads, queries, keys)
    scores *= head_dim**-0.5 if scaling is None else scaling
    if softcap is not None:
        scores = scores.div_(softcap).tanh_().mul_(softcap)
    scores = (
        scores.masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool else scores.add_(mask)
    )
    if attention_sinks is None:
        return scores.softmax(dim=-1)
    attention_sink = attention_sinks.float().view(query_heads, 1, 1).expand(-1, queries, -1)
    return torch.cat([scores, attention_sink], dim=-1).softmax(dim=-1)[..., :-1]


def causal_mask(
    query: Int[Tensor, " query"], key: Int[Tensor, " key"], sliding_window: int | None
) -> Bool[Tensor, "1 query key"]:
    """Mask each query to its own and earlier key positions, within the sliding window if any."""
    distance = query[:, None] - key
    seen = distance >= 0
    return (seen if sliding_window is None else seen & (distance < sliding_window))[None]


def check_attention_kwargs(implementation: str, attention_kwargs: dict[str, Any]) -> None:
    """Refuse attention whose probabilities ``attention_rows`` would compute wrongly.

    Raises:
        HeadprobeError: the scores have an unknown term, or a soft cap that SDPA leaves out.
    """
    unknown = [name for name in _UNKNOWN_KWARGS if attention_kwargs.get(name) is not None]
    if unknown:
        raise HeadprobeError(f"cannot follow attention that depends on {unknown[0]!r}")
    # Newer releases of transformers refuse a soft cap under SDPA; 5.17 leaves the cap out.
    if implementation == "sdpa" and attention_kwargs.get("softcap") is not None:
        raise HeadprobeError(
            "SDPA has no soft cap: load the model with attn_implementation='eager'"
        )

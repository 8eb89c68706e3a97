"""Bound from the weights alone how far the heads of an ALiBi model see.

ALiBi subtracts slope * (i - j) from the logit of query i and key j. If no logit exceeds S in
absolute value before that subtraction, key j has a weight of at most exp(2 S - slope * (i - j)),
which is at most eps from a distance of L = (2 S - log eps) / slope on (RazorAttention's theorem on
ALiBi models; Tang et al., arXiv 2407.15891).

The paper takes S = ||W_Q W_K^T||_2 (||gamma||^2 + ||beta||^2), gamma and beta of the layer norm
before attention. That bounds the logits where all gammas are equal, beta is zero and the
projections have no bias. Here S is a bound for any weights, and equals the paper's in that case: a
layer norm makes a vector z no longer than sqrt(hidden), then gamma z + beta of it. So with
A = W_Q diag(gamma), a = W_Q beta + b_Q, and B and b of the key likewise,
|q k| <= hidden ||A^T B|| + sqrt(hidden) (||A^T b|| + ||B^T a||) + |a b|.
The scale that the model puts on its logits, 1 / sqrt(head_dim), counts as part of W_Q.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.bloom.modeling_bloom import build_alibi_tensor as bloom_bias
from transformers.models.falcon.modeling_falcon import build_alibi_tensor as falcon_bias

from headprobe.errors import HeadprobeError

EPSILON = 1e-5


@dataclass(frozen=True, eq=False, kw_only=True)
class _Layer:
    """The weights that produce one layer's logits; grouped keys are repeated for every query head.

    ``clip`` is the largest absolute value that an entry of a query or key can have; ``blur`` is
    the error, in tokens, that rounding can put into a distance in the model's bias.
    """

    norm: Any
    query: Float[Tensor, "query_head head_dim hidden"]
    key: Float[Tensor, "query_head head_dim hidden"]
    query_bias: Float[Tensor, "query_head head_dim"]
    key_bias: Float[Tensor, "query_head head_dim"]
    scale: float
    slope: Float[Tensor, " query_head"]
    clip: float | None = None
    blur: float = 0.0


@torch.no_grad()
def scopes(
    model: PreTrainedModel, *, epsilon: float = EPSILON
) -> Float[Tensor, "layer query_head"]:
    """Compute for every head the distance from which its attention weights stay below a bound.

    Args:
        model: a bloom, falcon or mpt model with ALiBi, its weights in memory.
        epsilon: the bound; no weight exceeds it from the returned distance, in tokens, on.

    Raises:
        HeadprobeError: the model has no ALiBi, is not of bloom, falcon or mpt, or not in memory.
    """
    read = _READERS.get(model.config.model_type)
    if read is None or not getattr(model.config, "alibi", True):
        raise HeadprobeError(
            f"task alibi reads bloom, mpt, and falcon with alibi; this is a "
            f"{model.config.model_type!r} model without it: take another one",
            option="task",
            value="alibi",
        )
    if any(weight.is_meta for weight in model.parameters()):
        raise HeadprobeError(
            "task alibi takes all weights in memory, and there is no room for some: "
            "leave out `device_map`, or try `dtype=bfloat16`"
        )
    return torch.stack(
        [
            (2 * _largest_logit(layer) - math.log(epsilon)).cpu() / layer.slope.cpu() + layer.blur
            for layer in read(model)
        ]
    )


def _largest_logit(layer: _Layer) -> Float[Tensor, " query_head"]:
    """Compute S, the largest absolute value that a logit can have before ALiBi's bias."""
    query, query_bias = _through_norm(layer.norm, layer.query, layer.query_bias)
    key, key_bias = _through_norm(layer.norm, layer.key, layer.key_bias)
    size = query.shape[-1]
    # ||A^T B|| equals ||R_A R_B^T||, the norm of two small triangles, with A^T = Q_A R_A.
    _, query_triangle = torch.linalg.qr(query.mT)
    _, key_triangle = torch.linalg.qr(key.mT)
    if layer.clip is None:
        bilinear = torch.linalg.matrix_norm(query_triangle @ key_triangle.mT, ord=2)
        linear = (query.mT @ key_bias[..., None]).norm(dim=(-2, -1)) + (
            key.mT @ query_bias[..., None]
        ).norm(dim=(-2, -1))
        constant = (query_bias * key_bias).sum(dim=-1).abs()
        bound: Tensor = size * bilinear + math.sqrt(size) * linear + constant
        return bound * layer.scale
    # Clipped entries are no longer linear in z, but only shorter: |q k| <= |q| |k|.
    longest = math.sqrt(layer.query.shape[1]) * layer.clip
    lengths = [
        (math.sqrt(size) * torch.linalg.matrix_norm(triangle, ord=2) + bias.norm(dim=-1)).clamp(
            max=longest
        )
        for triangle, bias in ((query_triangle, query_bias), (key_triangle, key_bias))
    ]
    product: Tensor = lengths[0] * lengths[1]
    return product * layer.scale


def _through_norm(
    norm: Any,
    weight: Float[Tensor, "query_head head_dim hidden"],
    bias: Float[Tensor, "query_head head_dim"],
) -> tuple[Float[Tensor, "query_head head_dim hidden"], Float[Tensor, "query_head head_dim"]]:
    """Fold the norm's gain and bias into a projection, so that it reads the normalised vector."""
    weight, bias = weight.float(), bias.float()
    if norm.bias is not None:
        bias = bias + weight @ norm.bias.float()
    return weight * norm.weight.float(), bias


def _bloom(model: Any) -> Iterator[_Layer]:
    heads = model.config.n_head
    slope = _slope(bloom_bias(_two_tokens(model), heads, torch.float32))
    for block in model.transformer.h:
        attention = block.self_attention
        weight, bias = _split(attention.query_key_value, (heads, 3, attention.head_dim))
        yield _Layer(
            norm=block.input_layernorm,
            query=weight[:, 0],
            key=weight[:, 1],
            query_bias=bias[:, 0],
            key_bias=bias[:, 1],
            scale=attention.inv_norm_factor,
            slope=slope,
        )


def _falcon(model: Any) -> Iterator[_Layer]:
    heads = model.config.num_attention_heads
    slope = _slope(falcon_bias(_two_tokens(model), heads, torch.float32))
    for block in model.transformer.h:
        attention = block.self_attention
        groups = attention.num_kv_heads
        shape = (groups, heads // groups + 2, attention.head_dim)
        weight, bias = _split(attention.query_key_value, shape)
        norm = block.ln_attn if hasattr(block, "ln_attn") else block.input_layernorm
        yield _Layer(
            norm=norm,
            query=weight[:, :-2].flatten(0, 1),
            key=weight[:, -2].repeat_interleave(heads // groups, dim=0),
            query_bias=bias[:, :-2].flatten(0, 1),
            key_bias=bias[:, -2].repeat_interleave(heads // groups, dim=0),
            scale=attention.inv_norm_factor,
            # Falcon scales its bias together with the logits, and has it in bfloat16: slope * i and
            # slope * j are each right to one part in 512. transformers' eager attention adds it
            # twice, so that its heads see half as far.
            slope=slope * attention.inv_norm_factor,
            blur=model.config.max_position_embeddings / 256,
        )


def _mpt(model: Any) -> Iterator[_Layer]:
    heads = model.config.n_heads
    slope = _slope(model.transformer.build_mpt_alibi_tensor(heads, 2, device=model.device))
    for block in model.transformer.blocks:
        attention = block.attn
        weight, bias = _split(attention.Wqkv, (3, heads, attention.head_dim))
        yield _Layer(
            norm=block.norm_1,
            query=weight[0],
            key=weight[1],
            query_bias=bias[0],
            key_bias=bias[1],
            scale=attention.softmax_scale,
            slope=slope,
            clip=attention.clip_qkv,
        )


_READERS: dict[str, Callable[[Any], Iterator[_Layer]]] = {
    "bloom": _bloom,
    "falcon": _falcon,
    "mpt": _mpt,
}


def _split(linear: Any, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Split a fused projection's weight and bias by heads; a missing bias counts as zero."""
    weight = linear.weight
    bias = weight.new_zeros(len(weight)) if linear.bias is None else linear.bias
    return weight.view(*shape, -1), bias.view(shape)


def _two_tokens(model: Any) -> Tensor:
    return torch.ones(1, 2, dtype=torch.long, device=model.device)


def _slope(bias: Float[Tensor, "query_head 1 2"]) -> Float[Tensor, " query_head"]:
    """Measure by how much the model's ALiBi bias falls from a token to the previous one."""
    return (bias[:, 0, 1] - bias[:, 0, 0]).float()

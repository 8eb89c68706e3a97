"""Attention over streams of different lengths.

Streams of one length take one call of PyTorch's own kernel. While decoding on a GPU one call of
its flash kernel for sequences of different lengths takes them all. What these kernels lack, a
soft cap or attention sinks, is computed plainly.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int, Int64, Shaped
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from headprobe.attention.observe import attention_rows
from headprobe.compression.ragged import COMPENSATION, Block, Ragged
from headprobe.errors import HeadprobeError


@torch.no_grad()
def attend(
    ragged: Ragged,
    query: Float[Tensor, "batch query_head query head_dim"],
    mask: Tensor | None,
    *,
    position: int,
    terms: dict[str, Any],
) -> Float[Tensor, "batch query query_head value_dim"]:
    """The attention output of the newest tokens, the first at ``position``; their keys are stored.

    ``mask`` and ``terms`` are what the attention function gets.
    """
    batch, query_heads, queries, head_dim = query.shape
    heads = len(ragged.order) // batch
    grouped = query.reshape(batch * heads, -1, queries, head_dim)[ragged.order]
    blocks = list(ragged.blocks())
    at = range(position, position + queries)
    unmasked = sees_all(mask, at, terms)
    if unmasked and _fits_varlen(ragged, blocks, terms):
        output = _varlen(ragged, grouped[:, :, 0], terms)[:, :, None]
    else:
        parts = []
        for block in blocks:
            found = None
            if not unmasked:
                found = seen(mask, block.streams // heads, block.positions, at, terms)
            own = _own_terms(terms, block, heads)
            parts.append(_attend_block(grouped[block.stored], block, found, own))
        output = torch.cat(parts)
    return output[ragged.place].view(batch, query_heads, queries, -1).transpose(1, 2).contiguous()


def sees_all(mask: Tensor | None, queries: range, terms: dict[str, Any]) -> bool:
    """Whether nothing hides earlier tokens from queries at these positions."""
    window = terms.get("sliding_window")
    return mask is None and len(queries) == 1 and (window is None or queries.stop <= window)


def seen(
    mask: Tensor | None,
    sequences: Int64[Tensor, " stream"],
    positions: Int[Tensor, "stream key"],
    queries: range,
    terms: dict[str, Any],
) -> Shaped[Tensor, "stream query key"]:
    """What queries see of entries at some token positions: true, or what is added to the scores.

    ``mask`` is over all token positions, kept or not; flash kernels get one of the padding, or
    none, and a window among the ``terms``. A compensation entry is always seen.
    """
    compensation = (positions == COMPENSATION)[:, None]
    key = positions.long().clamp(min=0)
    if mask is not None and mask.ndim == 4:
        new = torch.arange(len(queries), device=key.device)[:, None]
        sequences = sequences if len(mask) > 1 else torch.zeros_like(sequences)
        found = mask[sequences[:, None, None], 0, new, key[:, None]]
        return found.masked_fill(compensation, True if found.dtype == torch.bool else 0.0)
    window = terms.get("sliding_window")
    distance = torch.tensor(queries, device=key.device)[:, None] - key[:, None]
    found = distance >= 0 if window is None else (distance >= 0) & (distance < window)
    if mask is not None:
        found &= mask[sequences[:, None], key].bool()[:, None]
    return found | compensation


def check_mask(mask: Any) -> None:
    """Refuse masks that say more than which tokens a query sees.

    Raises:
        HeadprobeError: the mask is no tensor (flex attention), or differs between heads.
    """
    if mask is None or (isinstance(mask, Tensor) and (mask.ndim == 2 or mask.shape[1] == 1)):
        return
    raise HeadprobeError(
        "cannot cut the cache of attention whose mask is no tensor or differs between heads; "
        "try the model with attn_implementation='sdpa'"
    )


def _own_terms(terms: dict[str, Any], block: Block, heads: int) -> dict[str, Any]:
    """The terms with the sinks of the block's query heads alone."""
    sinks = terms.get("s_aux")
    if sinks is None:
        return terms
    return terms | {"s_aux": sinks.view(heads, -1)[block.streams % heads]}


def _attend_block(
    query: Float[Tensor, "stream group query head_dim"],
    block: Block,
    found: Shaped[Tensor, "stream query key"] | None,
    terms: dict[str, Any],
) -> Float[Tensor, "stream group query value_dim"]:
    mask = _weigh(block, found, query.dtype)
    if terms.get("softcap") is not None or terms.get("s_aux") is not None:
        return _plain(query, block, mask, terms)
    keys, values = block.keys[:, None], block.values[:, None]
    mask = None if mask is None else mask[:, None]
    decoding = query.shape[2] == 1
    if decoding:
        # The group's heads as queries of one head: its entries are read once.
        query = query.transpose(1, 2)
    else:
        keys, values = (t.expand(-1, query.shape[1], -1, -1) for t in (keys, values))
    output = scaled_dot_product_attention(
        query, keys, values, attn_mask=mask, scale=terms.get("scaling")
    )
    return output.transpose(1, 2) if decoding else output


def _weigh(
    block: Block, found: Shaped[Tensor, "stream query key"] | None, dtype: torch.dtype
) -> Shaped[Tensor, "stream _ key"] | None:
    """The mask with what compensation entries gain, log n, since each counts for n."""
    if block.log_weights is None:
        return found if found is None or found.dtype == torch.bool else found.to(dtype)
    gain = torch.zeros_like(block.positions, dtype=dtype)[:, None]
    gain[:, 0, 0] = block.log_weights.to(dtype)
    if found is None:
        return gain
    return gain.masked_fill(~found, -torch.inf) if found.dtype == torch.bool else gain + found


def _plain(
    query: Float[Tensor, "stream group query head_dim"],
    block: Block,
    mask: Shaped[Tensor, "stream _ key"] | None,
    terms: dict[str, Any],
) -> Float[Tensor, "stream group query value_dim"]:
    """With every term of the scores, in float32."""
    streams, group, queries, _ = query.shape
    if mask is None:
        mask = torch.ones_like(block.positions, dtype=torch.bool)[:, None]
    mask = mask.expand(-1, queries, -1).repeat_interleave(group, dim=0)
    rows = attention_rows(query.flatten(0, 1), block.keys.float(), mask, terms)
    output = rows.view(streams, group * queries, -1) @ block.values.float()
    return output.view(streams, group, queries, -1).to(query.dtype)


def _fits_varlen(ragged: Ragged, blocks: list[Block], terms: dict[str, Any]) -> bool:
    """Whether one call of the flash kernel for sequences of different lengths can do it."""
    keys, values = ragged.keys, ragged.values
    head_dim = keys.shape[1]
    return (
        keys.is_cuda
        and len(blocks) > 1
        and keys.dtype in (torch.float16, torch.bfloat16)
        and head_dim == values.shape[1] <= 256
        and head_dim % 8 == 0
        and all(block.log_weights is None for block in blocks)
        and terms.get("softcap") is None
        and terms.get("s_aux") is None
        and torch.version.hip is None
        and torch.cuda.get_device_capability(keys.device) >= (8, 0)
    )


def _varlen(
    ragged: Ragged, query: Float[Tensor, "stream group head_dim"], terms: dict[str, Any]
) -> Float[Tensor, "stream group head_dim"]:
    """One query a stream, each stream a sequence with one KV head.

    The operator under torch.nn.attention.varlen, which takes no ``seqused_k`` before torch 2.12.
    """
    bounds = torch.arange(len(query) + 1, dtype=torch.int32, device=query.device)
    output: Tensor = torch.ops.aten._flash_attention_forward(
        query,
        ragged.keys[:, None],
        ragged.values[:, None],
        bounds,
        ragged.bounds,
        1,
        ragged.longest,
        0.0,
        False,
        False,
        scale=terms.get("scaling"),
        seqused_k=ragged.used,
    )[0]
    return output

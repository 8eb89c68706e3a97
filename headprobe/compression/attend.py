"""Attention over heads that hold different numbers of entries.

On a GPU one call of PyTorch's flash kernel for sequences of different lengths takes all heads,
wherever every token up to a query's own is seen. Else heads of equal length, or on a GPU all of
them padded to one, take one call of PyTorch's own attention. What these kernels lack, a soft cap,
is computed plainly.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Float32, Shaped
from torch import Tensor

from headprobe.attention.kernels import attend_groups
from headprobe.attention.rows import attention_rows
from headprobe.compression.entries import PADDING, Block
from headprobe.compression.masks import seen
from headprobe.compression.ragged import Ragged


def attend(
    ragged: Ragged,
    query: Float[Tensor, "batch query_head query head_dim"],
    mask: Tensor | None,
    *,
    position: int,
    is_causal: bool,
    attention_kwargs: dict[str, Any],
) -> Float[Tensor, "batch query query_head value_dim"]:
    """Compute the attention output of the newest tokens, the first of them at ``position``.

    The keys of these tokens are stored already. ``mask`` and ``attention_kwargs`` are what the
    attention function gets. With ``is_causal`` the mask says no more than that a query sees every
    token up to its own, and is not looked at.
    """
    if is_causal and ragged.has_varlen_kernel and attention_kwargs.get("softcap") is None:
        return _varlen(ragged, query.detach(), attention_kwargs)
    return _by_block(
        ragged,
        query,
        mask,
        position=position,
        is_causal=is_causal,
        attention_kwargs=attention_kwargs,
    )


@torch.no_grad()
def _by_block(
    ragged: Ragged,
    query: Float[Tensor, "batch query_head query head_dim"],
    mask: Tensor | None,
    *,
    position: int,
    is_causal: bool,
    attention_kwargs: dict[str, Any],
) -> Float[Tensor, "batch query query_head value_dim"]:
    """Compute ``attend`` with one kernel call for each block of heads."""
    batch, query_heads, queries, head_dim = query.shape
    grouped = query.reshape(ragged.heads, -1, queries, head_dim)
    if ragged.slots.order is not None:
        grouped = grouped[ragged.slots.order]
    at = range(position, position + queries)
    parts = []
    for block in ragged.blocks(positions=not is_causal):
        found = _causal(block, queries)
        if not is_causal:
            found = _mask(ragged, block, mask, batch, at, attention_kwargs)
        own = _own_kwargs(ragged, block, batch, attention_kwargs)
        parts.append(_attend_block(grouped[block.stored], block, found, own))
    output = torch.cat(parts) if len(parts) > 1 else parts[0]
    if ragged.slots.place is not None:
        output = output[ragged.slots.place]
    return output.reshape(batch, query_heads, queries, -1).transpose(1, 2).contiguous()


def _mask(
    ragged: Ragged,
    block: Block,
    mask: Tensor | None,
    batch: int,
    queries: range,
    attention_kwargs: dict[str, Any],
) -> Shaped[Tensor, "head_entries query key"]:
    assert block.positions is not None
    sequences = ragged.numbers(block) // (ragged.heads // batch)
    return seen(mask, block.positions, queries, attention_kwargs, sequences=sequences)


def _causal(block: Block, queries: int) -> Bool[Tensor, "#head_entries #query key"] | None:
    """Return what queries see that are the newest tokens of all heads; ``None`` is everything."""
    keys = block.keys.shape[1]
    if block.positions is not None:
        lengths = (block.positions != PADDING).sum(dim=1)[:, None, None]
        place = torch.arange(keys, device=lengths.device)
        return place < lengths - torch.arange(queries - 1, -1, -1, device=place.device)[:, None]
    if queries == 1:
        return None
    everything = torch.ones(1, queries, keys, dtype=torch.bool, device=block.keys.device)
    return everything.tril_(keys - queries)


def _sinks(
    ragged: Ragged, batch: int, attention_kwargs: dict[str, Any]
) -> Float[Tensor, "head_entries group"] | None:
    """Return the attention sinks of every head's query heads, in the order of storage."""
    sinks = attention_kwargs.get("s_aux")
    if sinks is None:
        return None
    own: Tensor = sinks.repeat(batch).view(ragged.heads, -1)
    return own if ragged.slots.order is None else own[ragged.slots.order]


def _own_kwargs(
    ragged: Ragged, block: Block, batch: int, attention_kwargs: dict[str, Any]
) -> dict[str, Any]:
    """Return the ``attention_kwargs`` with the attention sinks of the block's query heads alone."""
    sinks = _sinks(ragged, batch, attention_kwargs)
    return attention_kwargs if sinks is None else attention_kwargs | {"s_aux": sinks[block.stored]}


def _attend_block(
    query: Float[Tensor, "head_entries group query head_dim"],
    block: Block,
    found: Shaped[Tensor, "#head_entries #query key"] | None,
    attention_kwargs: dict[str, Any],
) -> Float[Tensor, "head_entries group query value_dim"]:
    mask = _weigh(block, found, query.dtype)
    if attention_kwargs.get("softcap") is not None or attention_kwargs.get("s_aux") is not None:
        return _plain(query, block, mask, attention_kwargs)
    return attend_groups(
        query,
        block.keys,
        block.values,
        None if mask is None else mask[:, None],
        scale=attention_kwargs.get("scaling"),
    )


def _weigh(
    block: Block, found: Shaped[Tensor, "#head_entries #query key"] | None, dtype: torch.dtype
) -> Shaped[Tensor, "#head_entries #query key"] | None:
    """Add log n to the mask where an entry is a compensation entry, since it counts for n."""
    if block.log_weights is None:
        return found if found is None or found.dtype == torch.bool else found.to(dtype)
    gain = torch.zeros_like(block.keys[:, None, :, 0])
    gain[:, 0, 0] = block.log_weights.to(dtype)
    if found is None:
        return gain
    return gain.masked_fill(~found, -torch.inf) if found.dtype == torch.bool else gain + found


def _plain(
    query: Float[Tensor, "head_entries group query head_dim"],
    block: Block,
    mask: Shaped[Tensor, "#head_entries #query key"] | None,
    attention_kwargs: dict[str, Any],
) -> Float[Tensor, "head_entries group query value_dim"]:
    """Compute attention over a block with every term of the scores, in float32."""
    heads, group, queries, _ = query.shape
    if mask is None:
        mask = torch.ones(1, 1, block.keys.shape[1], dtype=torch.bool, device=query.device)
    mask = mask.expand(heads, queries, -1).repeat_interleave(group, dim=0)
    rows = attention_rows(query.flatten(0, 1), block.keys.float(), mask, attention_kwargs)
    output = rows.view(heads, group * queries, -1) @ block.values.float()
    return output.view(heads, group, queries, -1).to(query.dtype)


def _varlen(
    ragged: Ragged,
    query: Float[Tensor, "batch query_head query head_dim"],
    attention_kwargs: dict[str, Any],
) -> Float[Tensor, "batch query query_head head_dim"]:
    """Compute ``attend`` with one kernel call: a head is a sequence that ends with its queries.

    It calls the operator under torch.nn.attention.varlen, which takes no ``seqused_k`` before
    torch 2.12.
    """
    batch, query_heads, queries, head_dim = query.shape
    group = batch * query_heads // ragged.heads
    by_head = query.reshape(ragged.heads, group, queries, head_dim).transpose(1, 2)
    output, log_sum = torch.ops.aten._flash_attention_forward(
        by_head.reshape(-1, group, head_dim),
        *ragged.states,
        ragged.slots.query_bounds(queries),
        ragged.slots.bounds,
        queries,
        ragged.slots.longest,
        0.0,
        queries > 1,
        False,
        scale=attention_kwargs.get("scaling"),
        seqused_k=ragged.slots.used,
    )[:2]
    has_sinks = attention_kwargs.get("s_aux") is not None
    sinks = _sinks(ragged, batch, attention_kwargs) if has_sinks else None
    if ragged.compensation is not None or sinks is not None:
        # Older releases pad it: head by head, and each to a round number of queries.
        if log_sum.ndim == 3:
            log_sum = log_sum[:, :, :queries].permute(1, 0, 2)
        log_sum = log_sum.reshape(group, ragged.heads, queries).permute(1, 2, 0)
        output = _weigh_in(
            output.view(by_head.shape), log_sum, by_head, ragged, sinks, attention_kwargs
        )
    if queries > 1:
        output = output.view(batch, -1, queries, group, head_dim).transpose(1, 2)
    whole: Tensor = output.reshape(batch, queries, query_heads, head_dim)
    return whole


def _weigh_in(
    output: Float[Tensor, "head_entries query group head_dim"],
    log_sum: Float32[Tensor, "head_entries query group"],
    query: Float[Tensor, "head_entries query group head_dim"],
    ragged: Ragged,
    sinks: Float[Tensor, "head_entries group"] | None,
    attention_kwargs: dict[str, Any],
) -> Float[Tensor, "head_entries query group head_dim"]:
    """Add what the kernel left out to its output: compensation entries in full weight, and sinks.

    ``log_sum`` is the log of the kernel's softmax denominator.
    """
    total, found = log_sum, output.float()
    if ragged.compensation is not None:
        one = ragged.compensation
        scaling = attention_kwargs.get("scaling")
        scores = torch.einsum("hqgd,hd->hqg", query.float(), one.keys.float())
        scores = scores * (query.shape[3] ** -0.5 if scaling is None else scaling)
        scores = scores + one.log_more[:, None, None]
        total = torch.logaddexp(total, scores)
        found = found * (log_sum - total).exp()[..., None]
        found = found + (scores - total).exp()[..., None] * one.values.float()[:, None, None]
    if sinks is not None:
        whole = torch.logaddexp(total, sinks.float()[:, None])
        found = found * (total - whole).exp()[..., None]
    return found.to(output.dtype)

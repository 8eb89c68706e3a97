"""Reach on natural text: a head's attention beyond the first and the newest tokens.

A head that streaming would serve, which keeps the first entries and the newest, scores 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headprobe.measures._text import TextMeasure, by_layer, read_text

if TYPE_CHECKING:
    from headprobe.attention.rows import AttentionRows
    from headprobe.models.loading import LoadedModel

SINKS, NEWEST = 4, 128


def read(
    loaded: LoadedModel, ids: Int[Tensor, "1 token"], prefill_chunk: int
) -> Float[Tensor, "layer query_head"]:
    """Average over the second half of a text a query's attention beyond sinks and newest tokens.

    Left out are the first 4 tokens, and the newest 128 of a query, its own among them.
    """
    start = ids.shape[1] // 2
    total: dict[int, Tensor] = {}

    def add(rows: AttentionRows) -> None:
        key = torch.arange(rows.weights.shape[-1], device=rows.weights.device)
        query = rows.queries
        counts = (key >= SINKS) & (key <= query[:, None] - NEWEST)
        found = (rows.weights * counts).sum(dim=(1, 2), dtype=torch.float64)
        total[rows.layer] = total.get(rows.layer, 0) + found / (ids.shape[1] - start)

    read_text(loaded, ids, prefill_chunk, add, start=start)
    return by_layer(loaded, total)


MEASURE = TextMeasure(
    summary="attention beyond the first 4 and the newest 128 tokens of natural text", read=read
)

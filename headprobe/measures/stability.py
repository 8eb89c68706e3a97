"""Stability: does a head go on attending to what it attended to at prefill (HeteroCache)?

A stable head can be compressed once, at prefill; a head whose most attended entries change cannot.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headprobe.measures._text import TextMeasure, by_layer, read_text

if TYPE_CHECKING:
    from headprobe.attention.rows import AttentionRows
    from headprobe.models.loading import LoadedModel

DECODED, WINDOW = 64, 8
TOP = 0.05
"""The fraction of the entries that are compared."""


def read(
    loaded: LoadedModel, ids: Int[Tensor, "1 token"], prefill_chunk: int
) -> Float[Tensor, "layer query_head"]:
    """Compare a head's most attended entries at prefill with those of each later token.

    The last 64 tokens stand for what is decoded; at prefill the mean attention of the 8 tokens
    before them counts. Compared are the top 5 % of the entries before these 8 that the last token
    still sees: the score is the fraction in common, the mean over the decoded tokens, and 0 where
    a sliding window hides all such entries.
    """
    start = ids.shape[1] - DECODED - WINDOW
    kept: dict[int, list[Tensor]] = {}

    def keep(rows: AttentionRows) -> None:
        kept.setdefault(rows.layer, []).append(rows.weights[..., :start])

    read_text(loaded, ids, prefill_chunk, keep, start=start)
    return by_layer(loaded, {n: _overlap(torch.cat(rows, dim=1)) for n, rows in kept.items()})


def _overlap(rows: Float[Tensor, "query_head query key"]) -> Float[Tensor, " query_head"]:
    """Return the mean fraction of top entries that each decoded query shares with prefill."""
    # Only a mask makes a weight exactly 0.
    seen = (rows[:, -1] > 0).any(dim=0)
    if not seen.any():
        return rows.new_zeros(len(rows))
    seen_rows = rows[..., seen]
    top = math.ceil(TOP * seen_rows.shape[-1])
    before = seen_rows[:, :WINDOW].mean(dim=1, keepdim=True)
    marked = torch.zeros_like(before).scatter_(-1, before.topk(top, dim=-1).indices, 1.0)
    later = seen_rows[:, WINDOW:].topk(top, dim=-1).indices
    shared = marked.expand(-1, later.shape[1], -1).gather(-1, later).sum(dim=-1)
    return shared.mean(dim=1) / top


MEASURE = TextMeasure(
    summary="overlap of the most attended entries at prefill and later (HeteroCache)", read=read
)

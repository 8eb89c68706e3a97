"""Semantic retrieval, CompressKV's score (arXiv 2508.02401).

A head scores at the steps that generate a token of the span, wherever in the span it looks: for
every token of the span that equals the generated one, its attention on the whole span is added.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headprobe.measures._measure import Measure

if TYPE_CHECKING:
    from headprobe.attention.rows import AttentionRows
    from headprobe.prompts.case import Case


def summarise(rows: AttentionRows, case: Case) -> Float[Tensor, "query_head step"]:
    """Sum the attention on the span."""
    return rows.weights[..., case.span].sum(dim=-1)


def score(
    attention: Float[Tensor, "query_head step"], case: Case, generated: Int[Tensor, " step"]
) -> Float[Tensor, "query_head step"]:
    """Multiply the attention by the count of span tokens that equal the generated token."""
    span = torch.tensor(case.input_ids[case.span], device=generated.device)
    return attention * (generated[:, None] == span).sum(dim=-1)


MEASURE = Measure(
    summary="attention on the span at steps that generate a token of it (CompressKV)",
    summarise=summarise,
    score=score,
    joins_layers=True,
)

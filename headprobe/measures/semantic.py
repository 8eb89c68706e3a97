"""Semantic retrieval, CompressKV's score (arXiv 2508.02401).

A head counts at the steps that generate a token of the span, wherever in the span it looks: for
every token there that equals the generated one, it gets its attention on the whole span.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from headprobe.attention.observe import AttentionRows
    from headprobe.prompts.case import Case


def summarise(rows: AttentionRows, case: Case) -> Float[Tensor, "query_head step"]:
    """Attention on the span."""
    return rows.weights[..., case.span].sum(dim=-1)


def score(
    attention: Float[Tensor, "query_head step"], case: Case, generated: Int[Tensor, " step"]
) -> Float[Tensor, "query_head step"]:
    """That, times the span's tokens that equal the generated one."""
    span = torch.tensor(case.input_ids[case.span], device=generated.device)
    return attention * (generated[:, None] == span).sum(dim=-1)

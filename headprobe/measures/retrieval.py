"""The retrieval score of "Retrieval Head" (Wu et al., arXiv 2404.15574, section 2).

A head copies at a step when the position it attends to most lies in the needle and holds the very
token that is generated. The score is the number of such steps over the needle's tokens.
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


def summarise(rows: AttentionRows, case: Case) -> Int[Tensor, "query_head step"]:
    """Find the position that each head attends to most."""
    return rows.weights.argmax(dim=-1)


def score(
    position: Int[Tensor, "query_head step"], case: Case, generated: Int[Tensor, " step"]
) -> Float[Tensor, "query_head step"]:
    """Score 1/N at every step at which a head copies from the span of N tokens, else 0.

    Tokens copied twice count twice, as in the authors' code: a case can exceed 1.
    """
    span = torch.tensor(case.input_ids[case.span], device=position.device)
    offset = position - case.span_start
    inside = (offset >= 0) & (offset < len(span))
    held = span[offset.clamp(0, len(span) - 1)]
    return (inside & (held == generated)).float() / len(span)


MEASURE = Measure(
    summary="steps that copy the most attended token from the needle (Retrieval Head)",
    summarise=summarise,
    score=score,
    counts_all_steps=True,
    joins_layers=True,
)

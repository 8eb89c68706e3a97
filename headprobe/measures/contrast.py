"""Attention on the span minus attention off it, scaled by their lengths.

A head that spreads its attention evenly scores 0, one that reads the span 1 at every step, and one
that looks elsewhere less than 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float, Int
from torch import Tensor

from headprobe.measures._measure import Measure

if TYPE_CHECKING:
    from headprobe.attention.rows import AttentionRows
    from headprobe.prompts.case import Case


def summarise(rows: AttentionRows, case: Case) -> Float[Tensor, "query_head step"]:
    """Subtract from the attention on the span that on all other tokens, by |span| / |off|."""
    size = case.span_end - case.span_start
    off = rows.queries + 1 - size
    inside = rows.weights[..., case.span].sum(dim=-1)
    return inside - size / off.clamp(min=1) * (rows.weights.sum(dim=-1) - inside)


def score(
    attention: Float[Tensor, "query_head step"], case: Case, generated: Int[Tensor, " step"]
) -> Float[Tensor, "query_head step"]:
    """Return the summary: the generated tokens do not matter."""
    return attention


MEASURE = Measure(
    summary="attention on the span minus attention off it, scaled by their lengths",
    summarise=summarise,
    score=score,
    joins_layers=True,
)

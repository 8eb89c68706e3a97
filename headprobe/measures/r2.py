"""The retrieval-reasoning score of HeadKV-R2 (Fu et al., arXiv 2410.19258, section 3.1).

The attention that a head gives to the right answer's sentence, counted only where it is among the
head's N strongest positions, over N, the sentence's tokens. No token needs to match.
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
    """Sum the attention on the N strongest positions that lie in the span, and divide by N."""
    size = case.span_end - case.span_start
    strongest = rows.weights.topk(min(size, rows.weights.shape[-1]), dim=-1)
    inside = (strongest.indices >= case.span_start) & (strongest.indices < case.span_end)
    return (strongest.values * inside).sum(dim=-1) / size


def score(
    attention: Float[Tensor, "query_head step"], case: Case, generated: Int[Tensor, " step"]
) -> Float[Tensor, "query_head step"]:
    """Return the summary: the generated tokens do not matter."""
    return attention


MEASURE = Measure(
    summary="attention on the right sentence among a head's strongest positions (HeadKV-R2)",
    summarise=summarise,
    score=score,
    joins_layers=True,
)

"""QRHead's score: the question's attention on the span, calibrated by "N/A" (arXiv 2506.09944).

The score is the mean attention of the question's tokens on the span, minus the same mean for the
question "N/A" in its place, so that attention which does not depend on the question cancels.
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
    """Sum the attention of each of the question's tokens on the span."""
    return rows.weights[..., case.span].sum(dim=-1)


def score(
    attention: Float[Tensor, "query_head step"], case: Case, asked: Int[Tensor, " step"]
) -> Float[Tensor, "query_head step"]:
    """Divide the attention by the number of the question's tokens, so that the sum is a mean."""
    return attention / len(asked)


MEASURE = Measure(
    summary="attention of the question on the span, minus that of an empty question (QRHead)",
    summarise=summarise,
    score=score,
    watches="question",
    joins_layers=True,
)

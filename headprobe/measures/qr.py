"""How the question finds the span: QRHead's score (arXiv 2506.09944).

The mean attention of the question's tokens on the span, minus the same for the question "N/A" in
its place: what a head gives the span whatever is asked falls out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from headprobe.attention.observe import AttentionRows
    from headprobe.prompts.case import Case


def summarise(rows: AttentionRows, case: Case) -> Float[Tensor, "query_head step"]:
    """Attention of each of the question's tokens on the span."""
    return rows.weights[..., case.span].sum(dim=-1)


def score(
    attention: Float[Tensor, "query_head step"], case: Case, asked: Int[Tensor, " step"]
) -> Float[Tensor, "query_head step"]:
    """That over the number of the question's tokens."""
    return attention / len(asked)

"""Attention on the span, except on the context's first tokens and on each query's newest tokens.

Most heads look at the first and the newest tokens whatever these say, and every budget keeps them.
A needle that stands there gets attention that says nothing of the head.
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

SINKS = 4
"""First tokens that are left out: the number that StreamingLLM keeps (arXiv 2309.17453)."""
WINDOW = 8
"""Newest tokens that are left out, the query's own among them: the window of HeadKV's budgets."""


def summarise(rows: AttentionRows, case: Case) -> Float[Tensor, "query_head step"]:
    """Sum the attention on the span without the context's first 4 and a query's newest 8 tokens."""
    key = torch.arange(case.span_start, case.span_end, device=rows.weights.device)
    counts = (key >= SINKS) & (key <= rows.queries[:, None] - WINDOW)
    return (rows.weights[..., case.span] * counts).sum(dim=-1)


def score(
    attention: Float[Tensor, "query_head step"], case: Case, generated: Int[Tensor, " step"]
) -> Float[Tensor, "query_head step"]:
    """Return the summary: the generated tokens do not matter."""
    return attention


MEASURE = Measure(
    summary="attention on the span, less first tokens and newest",
    summarise=summarise,
    score=score,
    joins_layers=True,
)

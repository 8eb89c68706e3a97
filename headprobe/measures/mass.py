"""Attention on the span, less what lies among the sinks or in the local window.

Most heads look at the first tokens and at the newest whatever they hold, and every budget keeps
these. A needle that stands there gets attention that says nothing of the head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from headprobe.attention.observe import AttentionRows
    from headprobe.prompts.case import Case

SINKS = 4
"""First tokens that are left out, as many as StreamingLLM found to suffice (arXiv 2309.17453)."""
WINDOW = 8
"""Newest tokens that are left out, the query's own among them: the window of HeadKV's budgets."""


def summarise(rows: AttentionRows, case: Case) -> Float[Tensor, "query_head step"]:
    """Attention on the span's tokens from the fifth on that are not among a query's newest 8."""
    key = torch.arange(case.span_start, case.span_end, device=rows.weights.device)
    query = torch.tensor(rows.queries, device=rows.weights.device)
    counts = (key >= SINKS) & (key <= query[:, None] - WINDOW)
    return (rows.weights[..., case.span] * counts).sum(dim=-1)


def score(
    attention: Float[Tensor, "query_head step"], case: Case, generated: Int[Tensor, " step"]
) -> Float[Tensor, "query_head step"]:
    """The summary itself: what is generated does not matter."""
    return attention

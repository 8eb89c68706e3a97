"""The echo and induction scores of RazorAttention (Tang et al., arXiv 2407.15891, section 3.2).

In a repeated block of different tokens, the token of a query stands at the same place of every
earlier repeat. Echo is the attention on these places; induction is the attention on the places
right after them, where the token stands that comes next. A case's score is the mean over its
watched queries. Of a row only these few entries are kept.
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


def echo(rows: AttentionRows, case: Case) -> Float[Tensor, "query_head step"]:
    """Sum the attention on the places of the query's token in earlier repeats (echo)."""
    return _on_earlier(rows, case, offset=0)


def induction(rows: AttentionRows, case: Case) -> Float[Tensor, "query_head step"]:
    """Sum the attention right after the query's token in earlier repeats (induction)."""
    return _on_earlier(rows, case, offset=1)


def score(
    attention: Float[Tensor, "query_head step"], case: Case, read: Int[Tensor, " step"]
) -> Float[Tensor, "query_head step"]:
    """Divide the summary by the number of watched queries; the tokens do not matter."""
    return attention / (case.length - case.span_end)


def _on_earlier(
    rows: AttentionRows, case: Case, *, offset: int
) -> Float[Tensor, "query_head step"]:
    block = case.span_end - case.span_start
    most = rows.weights.shape[-1] - case.span_start
    distance = torch.arange(block, most, block, device=rows.weights.device)
    earlier = rows.queries[:, None] - distance
    places = (earlier + offset).clamp(min=0).expand(len(rows.weights), -1, -1)
    return (rows.weights.gather(-1, places) * (earlier >= case.span_start)).sum(dim=-1)


INDUCTION = Measure(
    summary="attention right after earlier repeats of the query's token (RazorAttention)",
    summarise=induction,
    score=score,
    joins_layers=True,
)
ECHO = Measure(
    summary="attention on earlier repeats of the query's token (RazorAttention)",
    summarise=echo,
    score=score,
    joins_layers=True,
)

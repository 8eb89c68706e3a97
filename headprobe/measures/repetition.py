"""Echo and induction of RazorAttention (Tang et al., arXiv 2407.15891, section 3.2).

In a repeated block of different tokens, the token of a query stands at the same place of every
earlier repeat. Echo is the attention on these places, induction that on the places right behind
them, where the token stands that comes next. A case's score is the mean over its watched queries.
Of a row only these few entries are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from headprobe.cases import Case


def echo(
    rows: Float[Tensor, "query_head step key"], case: Case
) -> Float[Tensor, "query_head step"]:
    """Attention on the places of the query's token in earlier repeats."""
    return _on_earlier(rows, case, behind=0)


def induction(
    rows: Float[Tensor, "query_head step key"], case: Case
) -> Float[Tensor, "query_head step"]:
    """Attention on the places right behind those of the query's token in earlier repeats."""
    return _on_earlier(rows, case, behind=1)


def score(
    attention: Float[Tensor, "query_head step"], case: Case, read: Int[Tensor, " step"]
) -> Float[Tensor, "query_head step"]:
    """The summary over the number of watched queries; the tokens do not matter."""
    return attention / (case.length - case.span_end)


def _on_earlier(
    rows: Float[Tensor, "query_head step key"], case: Case, *, behind: int
) -> Float[Tensor, "query_head step"]:
    query_heads, queries, keys = rows.shape
    block = case.span_end - case.span_start
    query = torch.arange(keys - queries, keys, device=rows.device)
    distance = torch.arange(block, keys - case.span_start, block, device=rows.device)
    earlier = query[:, None] - distance
    taken = rows.gather(-1, (earlier + behind).clamp(min=0).expand(query_heads, -1, -1))
    return (taken * (earlier >= case.span_start)).sum(dim=-1)

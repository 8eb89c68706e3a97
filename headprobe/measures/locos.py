"""LOCOS: what the span adds, through a head, to the generated token's logit (arXiv 2607.01002).

phi[t, j] = a_h^t[j] u(y_t)^T W_O^h v_j is what position j adds through head h to the logit of the
token y_t that step t generates. A step scores its sum over the span, minus its sum off the span by
|span| / |off|. The sum runs over vectors first: phi is linear in a v, and the token comes later.
``attention.logit_attribution`` defines u.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float, Int
from torch import Tensor

from headprobe.measures._measure import Measure

if TYPE_CHECKING:
    from headprobe.attention.rows import AttentionRows
    from headprobe.prompts.case import Case


def summarise(rows: AttentionRows, case: Case) -> Float[Tensor, "query_head step value_dim"]:
    """Sum the values by attention over the span, minus the sum off it by |span| / |off|."""
    size = case.span_end - case.span_start
    off = rows.queries + 1 - size
    inside = _on_span(rows, case)
    outside = rows.outputs.float() - inside
    return inside - (size / off.clamp(min=1))[:, None] * outside


def _on_span(rows: AttentionRows, case: Case) -> Float[Tensor, "query_head step value_dim"]:
    query_heads, steps, keys = rows.weights.shape
    kv_heads, kept, _ = rows.values.shape
    # Keys that a sliding-window cache has dropped have no attention either.
    dropped = keys - kept
    start, stop = max(case.span_start, dropped), max(case.span_end, dropped)
    group = query_heads // kv_heads
    weights = rows.weights[..., start:stop].reshape(kv_heads, group * steps, stop - start)
    values = rows.values[:, start - dropped : stop - dropped].float()
    return (weights @ values).view(query_heads, steps, -1)


def score(
    logit: Float[Tensor, "query_head step"], case: Case, generated: Int[Tensor, " step"]
) -> Float[Tensor, "query_head step"]:
    """Return what the summary adds to the generated token's logit (computed by the caller)."""
    return logit


MEASURE = Measure(
    summary="contribution of the span to the generated token's logit (LOCOS)",
    summarise=summarise,
    score=score,
    attributes_logits=True,
)

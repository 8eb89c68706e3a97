"""RazorAttention for ALiBi models: every head keeps its scope (Tang et al., arXiv 2407.15891).

A head gives tokens beyond its scope no weight that counts, so it needs none of their entries. Heads
whose scope reaches the context are the retrieval heads, and keep everything.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from headprobe.allocators._allocation import Allocation
from headprobe.allocators._reduction import usable_scores
from headprobe.allocators._strategy import Strategy
from headprobe.budgets import MAX_TOKENS
from headprobe.errors import UsageError


def alibi(
    scores: Float[np.ndarray, "layer query_head"],
    *,
    group: int,
    window: int,
    context_length: int | None = None,
) -> Allocation:
    """Let every head keep its newest entries, one for each token of its scope, rounded up.

    ``scores`` are the scopes in tokens; a KV head has the widest of its group. A scope that reaches
    ``context_length`` is a full cache; without it, a head keeps the whole of any context that is no
    longer than its scope.

    Raises:
        UsageError: the context length is no length.
        HeadprobeError: a scope is negative or not finite, or all are zero.
    """
    if context_length is not None and context_length < 1:
        raise UsageError("expected 1 or more", option="context_length", value=context_length)
    scope = np.ceil(usable_scores(scores, group=group, reduce="max")).clip(min=window)
    full = scope >= (context_length or MAX_TOKENS)
    return Allocation(
        tokens=scope.clip(max=context_length or MAX_TOKENS).astype(np.int64),
        ratio=full.astype(np.float64),
        selection=np.full(scope.shape, "streaming"),
    )


STRATEGY = Strategy(
    summary="as many of the newest entries as an ALiBi head sees (RazorAttention)",
    allocate=alibi,
    reads=("alibi",),
    in_own_unit=True,
)

"""RazorAttention's compensation token (Tang et al., arXiv 2407.15891, section 3.3).

What a head drops, n entries, lives on as one: the mean of their keys and the mean of their values,
counted n times in the softmax, attn = (n e^qk v + sum e^qk_m v_m) / (n e^qk + sum e^qk_m). To count
it n times is to add log n to its score.
"""

from __future__ import annotations

from jaxtyping import Float, Float32, Int64
from torch import Tensor


def compensate(
    entries: Float[Tensor, "key dim"],
    dropped: Float32[Tensor, "choice key"],
    former: Float[Tensor, "choice dim"],
    weights: Int64[Tensor, " choice"],
) -> Float[Tensor, "choice dim"]:
    """Average the ``dropped`` keys or values together with the ones that ``former`` stands for.

    ``former`` counts ``weights`` times, so whatever earlier compressions dropped counts as what
    this compression drops. One head's entries are dropped in several ways: ``dropped`` is 1 where a
    choice drops an entry, else 0.
    """
    total = dropped @ entries.float() + weights[:, None] * former.float()
    count = dropped.sum(dim=1) + weights
    return (total / count[:, None]).to(entries.dtype)

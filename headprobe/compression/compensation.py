"""RazorAttention's compensation token (Tang et al., arXiv 2407.15891, section 3.3).

What a head drops, n entries, lives on as one: the mean of their keys and the mean of their values,
counted n times in the softmax, attn = (n e^qk v + sum e^qk_m v_m) / (n e^qk + sum e^qk_m). To count
it n times is to add log n to its score.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def compensate(
    dropped: Float[Tensor, "key head_dim"],
    former: Float[Tensor, "1 head_dim"],
    weight: int,
) -> Float[Tensor, "1 head_dim"]:
    """The mean of the ``dropped`` keys or values and of the ``weight`` that ``former`` stands for.

    So whatever earlier cuts dropped counts as what this one drops.
    """
    total = dropped.float().sum(dim=0) + weight * former.float().sum(dim=0)
    mean = total / (len(dropped) + weight)
    return mean[None].to(dropped.dtype)

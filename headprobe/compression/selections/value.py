"""CriticalKV (arXiv 2502.03805): weigh attention by what an entry's value does to the output.

Half of what a head keeps is chosen by attention; the other half by attention times the L1 norm of
W_O v, the mean over the group's query heads.
"""

from __future__ import annotations

import torch
from jaxtyping import Float32
from torch import Tensor

from headprobe.compression.layer_view import EntryScores, LayerView
from headprobe.compression.selections._selection import Selection

EPSILON = 1e-4
"""Added to attention, so that entries without any are told apart by their values."""
_MOST_NUMBERS = 2**25


def score(view: LayerView) -> EntryScores:
    """Score entries by pooled attention, and the second half by its product with the norm."""
    attended = view.reduce(view.attention.mean)
    pooled = view.pool(attended)
    return EntryScores(worth=(pooled + EPSILON) * output_norms(view), ties=attended, first=pooled)


def output_norms(view: LayerView) -> Float32[Tensor, "head_entries key"]:
    """Compute the L1 norm of W_O v of every entry, the mean over the head's query heads."""
    if view.evidence.output is None:
        raise view.needed("the output projection")
    heads, columns, _ = view.values.shape
    output = view.evidence.output.repeat(view.sequences, 1, 1)
    grouped = output.view(heads, -1, *output.shape[1:])
    step = max(1, _MOST_NUMBERS // grouped.shape[-1])
    norms = torch.zeros(heads, columns, device=view.device)
    for head, values in enumerate(view.values):
        for weight in grouped[head]:
            parts = [
                (part.float() @ weight.float()).abs().sum(dim=-1) for part in values.split(step)
            ]
            norms[head] += torch.cat(parts) / grouped.shape[1]
    return norms


SELECTION = Selection(
    summary="half by attention, half by attention times the length of W_O v (CriticalKV)",
    score=score,
    needs=("output",),
)

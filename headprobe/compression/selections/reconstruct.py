"""KVzip (arXiv 2505.23416): keep what the model needs to repeat its context.

The model is made to repeat the context (``compression.reconstruction``); an entry is worth the
largest attention that any repeated token pays to it, in any query head of the group.
"""

from __future__ import annotations

import torch

from headprobe.compression.layer_view import EntryScores, LayerView
from headprobe.compression.selections._selection import Selection

SINKS = 4
"""First tokens, which go before all others."""


def score(view: LayerView) -> EntryScores:
    """Score entries by the largest attention of the repetition; of equal ones the newer first.

    Where a sliding window hides the context from its repetition, that is what is left to go by.
    """
    largest = view.evidence.reconstruction
    if largest is None or largest.shape[1] < view.evidence.tokens:
        raise view.needed("a repetition of the context: call `reconstruct` before the compression")
    worth = view.by_head(largest).amax(dim=1)
    newer = view.column.float().expand_as(worth)
    return EntryScores(worth=worth.masked_fill(view.positions < SINKS, torch.inf), ties=newer)


SELECTION = Selection(
    summary="the most attended while the model repeats its context (KVzip)",
    score=score,
    needs=("reconstruction",),
)

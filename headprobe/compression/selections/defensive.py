"""DefensiveKV (arXiv 2510.13334): keep what any of the newest queries needed, not the average.

An entry that one query needed much may be needed again, however little the other queries looked at
it. So the largest attention counts, over queries and query heads. What no query looked at may be
needed too: no entry is worth less than the mean of the layer.
"""

from __future__ import annotations

import torch

from headprobe.compression.layer_view import EntryScores, LayerView
from headprobe.compression.selections._selection import Selection


def score(view: LayerView) -> EntryScores:
    """Score entries by their pooled largest attention, at least the layer's mean of it.

    The mean is over all entries before the window, of all heads of the sequence.
    """
    largest = view.attention.largest.amax(dim=1)
    own = largest.masked_fill(~view.older, 0.0).view(view.sequences, -1)
    count = view.older.view(view.sequences, -1).sum(dim=1).clamp(min=1)
    floor = (own.sum(dim=1) / count).repeat_interleave(len(largest) // view.sequences)
    return EntryScores(worth=view.pool(torch.maximum(largest, floor[:, None])), ties=largest)


SELECTION = Selection(
    summary="the most attended by any of the newest queries (DefensiveKV)",
    score=score,
)

"""The newest entries (StreamingLLM, arXiv 2309.17453)."""

from __future__ import annotations

from headprobe.compression.layer_view import EntryScores, LayerView
from headprobe.compression.selections._selection import Selection


def score(view: LayerView) -> EntryScores:
    """Score entries by their place: the newer, the higher."""
    return EntryScores(worth=view.column.float().expand(len(view.counts), -1))


SELECTION = Selection(
    summary="the newest (StreamingLLM)",
    score=score,
)

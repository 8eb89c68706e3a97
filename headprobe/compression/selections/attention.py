"""The most attended entries (SnapKV, arXiv 2404.14469): the newest queries choose.

Their mean attention, reduced over the group, is spread to the neighbours by a max-pool, so that
what is kept stays in one piece. HeadKV (arXiv 2410.19258) does so inside each head.
"""

from __future__ import annotations

from headprobe.compression.layer_view import EntryScores, LayerView
from headprobe.compression.selections._selection import Selection


def score(view: LayerView) -> EntryScores:
    """Score entries by the pooled mean attention of the newest queries.

    A pooled peak is a plateau as wide as the kernel: the entry that is itself attended most goes
    first.
    """
    attended = view.reduce(view.attention.mean)
    return EntryScores(worth=view.pool(attended), ties=attended)


SELECTION = Selection(
    summary="the most attended by the newest queries (SnapKV)",
    score=score,
)

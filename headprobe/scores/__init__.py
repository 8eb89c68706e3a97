"""The scores of every head.

``head_scores`` is the record and its file: means, intervals, ranks; ``tables`` are those of a run;
``comparison`` says how alike several rank the heads.
"""

from headprobe.scores.head_scores import (
    FILE_NAME,
    REPORT,
    HeadScores,
    HeadStatistics,
    no_scores,
    recorded_digests,
)

__all__ = ["FILE_NAME", "REPORT", "HeadScores", "HeadStatistics", "no_scores", "recorded_digests"]

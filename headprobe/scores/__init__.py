"""The scores of every head.

``head_scores`` is the record of a run's scores and its file: means, intervals, ranks; ``tables``
puts scores into tables; ``comparison`` measures how alike several runs rank the heads.
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

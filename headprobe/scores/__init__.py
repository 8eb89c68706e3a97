"""The scores of every head: means, intervals, ranks, and how alike they rank the heads."""

from headprobe.scores.head_scores import (
    FILE_NAME,
    REPORT,
    HeadScores,
    HeadStatistics,
    no_scores,
    recorded_digests,
)

__all__ = ["FILE_NAME", "REPORT", "HeadScores", "HeadStatistics", "no_scores", "recorded_digests"]

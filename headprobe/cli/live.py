"""Tell on a terminal what ``headprobe score`` has found while it is at work."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from headprobe.prompts.case import Case
    from headprobe.runs.observation import Observation

_EVERY, _MOST_OF_THE_TIME = 5.0, 0.05
"""Seconds between two estimates of the reliability, and the fraction of the time they may take."""


class LiveScores:
    """Counts what a run has found so far, and tells it on one line after each case.

    Args:
        tell: shows the line.
        measure: the measure whose ranking of the heads is judged.
        asks: whether cases can fail.
        clock: gives the time in seconds.
    """

    def __init__(
        self,
        tell: Callable[[str], None],
        *,
        measure: str,
        asks: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell = tell
        self._measure = measure
        self._asks = asks
        self._clock = clock
        self._started = self._due = clock()
        self._tokens = 0
        self._scores: list[np.ndarray] = []
        self._needles: list[int] = []
        self._reliability = ""

    def __call__(self, case: Case, seen: Observation, is_new: bool) -> None:
        """Count an observed case; of an earlier start's cases no time is known."""
        if seen.passed:
            self._scores.append(seen.scores[self._measure])
            self._needles.append(case.needle_id)
        if is_new:
            self._tokens += case.length + len(seen.generated_ids)
            self._tell(self._line())

    def _line(self) -> str:
        now = self._clock()
        if now >= self._due:
            self._reliability = self._judge()
            took = self._clock() - now
            self._due = now + max(_EVERY, took / _MOST_OF_THE_TIME)
        passed = [f"{len(self._scores)} passed"] if self._asks else []
        speed = self._tokens / max(now - self._started, 1e-9)
        told = [f"reliability {self._reliability}"] if self._reliability else []
        return " · ".join([*passed, f"{speed:,.0f} tokens/s", *told])

    def _judge(self) -> str:
        """Return how far halves of the needles agree so far; empty where they are too few."""
        import numpy as np

        from headprobe.stats.reliability import FEWEST_NEEDLES, split_half

        if len(set(self._needles)) < FEWEST_NEEDLES:
            return ""
        found = split_half(np.stack(self._scores), self._needles).rank_correlation
        return f"{found.value:.2f}" if found else ""

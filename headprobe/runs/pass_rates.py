"""Compute the pass rate of a run, and of each kind of needle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from headprobe.runs.directory import read_cases
from headprobe.scores import HeadScores
from headprobe.tasks import find_task


@dataclass(frozen=True, kw_only=True)
class PassRate:
    """The number of ``cases`` on needles of one ``kind``, and the number that ``passed``."""

    kind: str
    cases: int
    passed: int

    @property
    def fraction(self) -> float:
        """The fraction of the cases that passed, 0 to 1."""
        return self.passed / self.cases


def describe_cases(run: HeadScores) -> str:
    """Say what a run's scores rest on, as in "61 of 100 cases passed"."""
    return describe_counts(run.task, run.cases, run.passed)


def describe_counts(task_name: str, cases: int, passed: int) -> str:
    """Say what scores of a task rest on, as ``describe_cases``."""
    task = find_task(task_name)
    if task is not None and not task.needs_cases:
        return "from the weights alone"
    count = f"{cases:,} case{'s' if cases > 1 else ''}"
    # The task of imported scores is not known.
    if task is not None and not task.asks:
        return f"{count}, nothing is asked"
    return f"{passed:,} of {count} passed"


def pass_rates(run: Path) -> list[PassRate]:
    """Compute the pass rate of every kind of needle in a run, in the order of the needle file.

    ``run`` is a run directory or its scores. The list is empty without a case table, as in imported
    runs, and where the needles have no kind.

    Raises:
        HeadprobeError: the case table is damaged.
    """
    directory = run.parent if run.is_file() else run
    table = read_cases(directory, ["needle_id", "kind", "accepted"])
    if table is None:
        return []
    groups = table.sort_values("needle_id").groupby("kind", sort=False)["accepted"]
    return [
        PassRate(kind=str(kind), cases=len(passed), passed=int(passed.sum()))
        for kind, passed in groups
    ]

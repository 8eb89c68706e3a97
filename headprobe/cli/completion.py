"""Complete the values of options in the shell; nothing that loads torch is imported.

Each function gets what is typed so far. Where none fits, shells go on with names of files.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def models(incomplete: str) -> list[str]:
    """Complete the alias of a model."""
    from headprobe.models.aliases import ALIASES

    return _fitting(ALIASES, incomplete)


def tasks(incomplete: str) -> list[str]:
    """Complete the name of a task."""
    from headprobe.tasks import TASKS

    return _fitting(TASKS, incomplete)


def asking_tasks(incomplete: str) -> list[str]:
    """Complete the name of a task that asks for answers."""
    from headprobe.tasks import TASKS

    return _fitting(
        (name for name, task in TASKS.items() if task.asks and not task.reads_documents), incomplete
    )


def measures(incomplete: str) -> list[str]:
    """Complete the names of measures, parted by commas."""
    from headprobe.tasks import TASKS

    return _fitting((name for task in TASKS.values() for name in task.offered), incomplete)


def strategies(incomplete: str) -> list[str]:
    """Complete the name of a strategy."""
    from headprobe.allocators import strategy_names

    return _fitting(strategy_names(), incomplete)


def selections(incomplete: str) -> list[str]:
    """Complete the names of selections, parted by commas."""
    from headprobe.budgets import selection_names

    return _fitting(selection_names(), incomplete)


def settings(incomplete: str) -> list[str]:
    """Complete the names of an evaluation's settings, parted by commas."""
    from headprobe.evaluation.settings import SETTINGS

    return _fitting(SETTINGS, incomplete)


def formats(incomplete: str) -> list[str]:
    """Complete the name of a file format."""
    from headprobe.formats import format_names

    return _fitting(format_names(), incomplete)


def benchmarks(incomplete: str) -> list[str]:
    """Complete the name of a benchmark."""
    from headprobe.evaluation.benchmarks.registry import BENCHMARKS

    return _fitting(BENCHMARKS, incomplete)


def runs(incomplete: str) -> list[str]:
    """Complete a run directory under ``outputs``, the newest first."""
    from headprobe.runs.directory import ROOT
    from headprobe.scores import FILE_NAME

    return _fitting((str(file.parent) for file in _newest_first(ROOT, FILE_NAME)), incomplete)


def results(incomplete: str) -> list[str]:
    """Complete a run directory or a budget under ``outputs``, the newest of each first."""
    from headprobe.runs.directory import BUDGETS, ROOT

    budgets = _fitting(map(str, _newest_first(ROOT, BUDGETS)), incomplete)
    return [*runs(incomplete), *budgets]


def _fitting(names: Iterable[str], incomplete: str) -> list[str]:
    """Return the names that begin as the last of what is typed, parted by commas."""
    before, comma, last = incomplete.rpartition(",")
    found = dict.fromkeys(name for name in names if name.startswith(last))
    return [f"{before}{comma}{name}" for name in found]


def _newest_first(root: Path, pattern: str) -> list[Path]:
    return sorted(root.glob(f"**/{pattern}"), key=lambda path: -path.stat().st_mtime)

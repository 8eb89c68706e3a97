"""The runs whose scores an evaluation uses, and the task and seed that follow from them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from headprobe.budgets import HeadBudgets
from headprobe.errors import HeadprobeError
from headprobe.evaluation.methods import MethodOptions
from headprobe.runs.directory import newest_run
from headprobe.runs.held_out import held_out_seed, seeds_of
from headprobe.runs.hub import local_run
from headprobe.scores import FILE_NAME as SCORES
from headprobe.scores import HeadScores
from headprobe.tasks import DEFAULT_TASK, TASKS, Task, find_task


def find_run(methods: MethodOptions) -> Path | None:
    """Find the run whose scores divide sizes; of budget files alone, the run that they lie in."""
    if methods.scores is not None:
        return methods.scores
    if len(methods.files) < len(methods.budgets):
        return newest_run()
    beside = methods.files[0].parent
    return beside if (beside / SCORES).is_file() else None


def scored_task(known: HeadScores | None) -> Task:
    """Return the task that heads were scored on if it asks about needles, else the default task."""
    task = find_task(known.task) if known else None
    askable = task is not None and task.asks and not task.reads_documents
    return task if task and askable else TASKS[DEFAULT_TASK]


def scored_runs(run: Path | None, files: Sequence[Path]) -> list[Path]:
    """Find the runs that may hold the cases that heads were scored on.

    They are ``run``, the runs that the budget ``files`` name, and the runs that these lie in.
    """
    found: list[Path] = []
    for file in files:
        recorded = HeadBudgets.load(file).strategy.get("scores")
        parts = recorded if isinstance(recorded, list) else []
        named = [
            _found(str(part["run"])) for part in parts if isinstance(part, dict) and "run" in part
        ]
        beside = file.parent
        if (beside / SCORES).is_file() or not named:
            named = [beside, *(path for path in named if path.exists())]
        found += named
    return found if run is None else [*found, run]


def _found(name: str) -> Path:
    """Return where a run of a budget's record lies; one of the hub is brought here if it can be."""
    with suppress(HeadprobeError):
        return local_run(Path(name))
    return Path(name)


def choose_seed(
    given: int | None,
    known: HeadScores | None,
    scored: Sequence[Path],
    *,
    allow_scored_needles: bool,
) -> int:
    """Choose the seed of an evaluation's cases: other than the scored ones' unless allowed.

    Raises:
        UsageError: the given seed drew scored cases.
    """
    if allow_scored_needles:
        return given if given is not None else max(seeds_of([known] if known else []), default=0)
    folders = {path.parent if path.is_file() else path for path in scored}
    files = [folder / SCORES for folder in folders]
    runs = [HeadScores.load(file) for file in files if file.is_file()]
    return held_out_seed(given, seeds_of([*runs, *([known] if known else [])]))

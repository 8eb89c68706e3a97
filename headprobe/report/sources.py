"""Find the runs, budgets, evaluations and ablations in the paths that a report is made of."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headprobe.budgets import HeadBudgets
from headprobe.errors import HeadprobeError, UsageError
from headprobe.runs.directory import BUDGETS, newest_run
from headprobe.scores import FILE_NAME as SCORES
from headprobe.scores import HeadScores

EVALUATION, ABLATION = "evaluation.json", "ablation.json"


@dataclass(frozen=True, eq=False, kw_only=True)
class Sources:
    """The results found, each with its path: directories of runs, and files of all others.

    Evaluations and ablations are the content of their JSON files.
    """

    runs: dict[Path, HeadScores] = field(default_factory=dict)
    budgets: dict[Path, HeadBudgets] = field(default_factory=dict)
    evaluations: dict[Path, dict[str, Any]] = field(default_factory=dict)
    ablations: dict[Path, dict[str, Any]] = field(default_factory=dict)

    @property
    def place(self) -> Path:
        """The directory of the result found first."""
        if self.runs:
            return next(iter(self.runs))
        others = (*self.budgets, *self.evaluations, *self.ablations)
        return others[0].parent

    def describe(self) -> str:
        """Count what was found, as in "2 runs, 1 budget"."""
        counts = {name.removesuffix("s"): len(found) for name, found in vars(self).items()}
        return ", ".join(f"{n} {name}{'s' * (n > 1)}" for name, n in counts.items() if n)


def find_sources(paths: Sequence[Path]) -> Sources:
    """Read what the paths hold.

    A path is a run directory, which brings the budgets in it, the directory of an evaluation or an
    ablation, a file of either or of a budget, or a folder of such directories. Without paths it is
    the newest run and the evaluations and ablations beside it.

    Raises:
        UsageError: a path does not exist or holds nothing of these.
        HeadprobeError: a file is damaged.
    """
    found = Sources()
    for path in paths or _newest():
        files = list(_files(path))
        if not files:
            raise UsageError(
                f"{path} holds no run, budget, evaluation or ablation; make a run with "
                "`headprobe score`",
                path=path,
            )
        for file in files:
            _read(file, found)
    return found


def _newest() -> list[Path]:
    run = newest_run()
    beside = sorted(run.parent.glob("*/"))
    return [
        run,
        *(path for path in beside if any((path / n).is_file() for n in (EVALUATION, ABLATION))),
    ]


def _files(path: Path) -> Iterator[Path]:
    """Yield the files with results in a path: in a directory, or else in its subdirectories."""
    if not path.exists():
        raise UsageError(f"no file or directory {path}", path=path)
    if path.is_file():
        yield path
        return
    own = list(_own_files(path))
    yield from own or (file for child in sorted(path.glob("*/")) for file in _own_files(child))


def _own_files(directory: Path) -> Iterator[Path]:
    yield from (
        directory / name for name in (SCORES, EVALUATION, ABLATION) if (directory / name).is_file()
    )
    yield from sorted(directory.glob(BUDGETS))


def _read(file: Path, found: Sources) -> None:
    if file.suffix.lower() == ".safetensors":
        found.runs[file.parent] = HeadScores.load(file)
    elif file.name == EVALUATION:
        found.evaluations[file] = _json(file, "evaluate", ("results", "plan", "metric"))
    elif file.name == ABLATION:
        found.ablations[file] = _json(file, "ablate", ("curves", "model", "accuracy"))
    else:
        found.budgets[file] = HeadBudgets.load(file)


def _json(file: Path, command: str, needed: Sequence[str]) -> dict[str, Any]:
    def refuse(why: str) -> HeadprobeError:
        return HeadprobeError(
            f"{file} is damaged ({why}); run `headprobe {command}` again", path=file
        )

    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise refuse(str(error)) from error
    missing = [n for n in needed if not isinstance(fields, dict) or n not in fields]
    if missing:
        raise refuse(f"it lacks {missing[0]}")
    return dict(fields)

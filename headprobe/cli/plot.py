"""``headprobe plot``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headprobe.cli import completion, options, output, parsing
from headprobe.errors import HeadprobeError, UsageError

if TYPE_CHECKING:
    from headprobe.budgets import HeadBudgets
    from headprobe.plots import RunPicture

PICTURE = "heads.png"


def plot(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE",
            help="Run directories, their scores.safetensors, hf:<owner>/<name>, or budgets; "
            "the newest run and its newest budget if left out.",
            show_default=False,
            autocompletion=completion.results,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        options.out(
            "The picture: .png, .svg or .pdf.",
            default="heads.png in the run, or beside the budget under its name",
        ),
    ] = None,
    measure: options.MeasureOption = None,
    quiet: options.Quiet = False,
) -> None:
    """Draw the heads of runs and budgets, side by side.

    Example: headprobe plot outputs/nano/r2 --out heads.svg
    """
    from headprobe.plots import draw, save
    from headprobe.runs.hub import local_run

    chosen = [local_run(file) for file in files] if files else _newest()
    path = out or _beside(chosen[0])
    parsing.free_output(out, chosen)
    pictures = [read_picture(file, measure) for file in chosen]
    save(draw(pictures), path)
    output.note(f"next: {_next(chosen, pictures)}")
    output.print_path(path)


def _newest() -> list[Path]:
    from headprobe.runs.directory import newest_budget, newest_run

    run = newest_run()
    budget = newest_budget(run)
    chosen = [run, budget] if budget else [run]
    output.note(f"drawing {' and '.join(map(str, chosen))}")
    return chosen


def _next(files: Sequence[Path], pictures: Sequence[RunPicture | HeadBudgets]) -> str:
    """Return the command that goes on from the first budget, or else from the first run."""
    from headprobe.budgets import HeadBudgets
    from headprobe.cli.budgets import evaluating
    from headprobe.cli.runs import allocating

    runs = []
    for file, picture in zip(files, pictures, strict=True):
        if isinstance(picture, HeadBudgets):
            return evaluating(file, picture)
        runs.append(allocating(file, picture.scores.task))
    return runs[0]


def _beside(file: Path) -> Path:
    from headprobe.budgets import is_budget_file
    from headprobe.runs.hub import place_of

    return file.with_suffix(".png") if is_budget_file(file) else place_of(file) / PICTURE


def read_picture(file: Path, measure: str | None = None) -> RunPicture | HeadBudgets:
    """Read what is drawn of a run or a budget file.

    Raises:
        UsageError: there is no such file, or it is of another kind; the run lacks the measure.
        HeadprobeError: a file is damaged.
    """
    from headprobe.budgets import HeadBudgets, is_budget_file
    from headprobe.plots import RunPicture
    from headprobe.runs.directory import read_cases
    from headprobe.scores import HeadScores

    if is_budget_file(file):
        return HeadBudgets.load(file)
    if file.is_file() and file.suffix.lower() != ".safetensors":
        raise UsageError(
            f"cannot draw {file}; give a run directory, its scores.safetensors or a budget's .json",
            path=file,
        )
    scores = HeadScores.load(file)
    chosen = scores.resolve(measure)
    run = file if file.is_dir() else file.parent
    cases = read_cases(run)
    try:
        return RunPicture(scores=scores, measure=chosen, cases=cases)
    except ValueError as error:
        raise HeadprobeError(
            f"the scores and the cases in {run} are of different runs ({error}); "
            "run `headprobe score` again",
            path=run,
        ) from error

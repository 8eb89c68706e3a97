"""``headprobe pull``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headprobe.cli import options, output


def pull(
    name: Annotated[
        str,
        typer.Argument(
            metavar="OWNER/NAME[@REVISION]",
            help="A run on the Hugging Face hub.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        options.out("The run directory to make.", default="outputs/<owner>--<name>"),
    ] = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Copy a run that others have put on the Hugging Face hub into a run directory.

    Example: headprobe pull someone/llama3-8b-r2-heads
    """
    from headprobe.cli.runs import allocating, describe
    from headprobe.runs.hub import HubName, pull_run
    from headprobe.scores import HeadScores

    path = pull_run(HubName.parse(name), out, overwrite=overwrite)
    run = HeadScores.load(path)
    describe(run, path=path)
    output.note(f"next: {allocating(path, run.task)}, or headprobe report {path}")
    output.print_path(path)

"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Option(
        help="An alias (see `headprobe list models`), a local directory or a hub id.",
        show_default=True,
    ),
]
Seed = Annotated[int, typer.Option(help="Seed of everything that is drawn.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of a table.")]
ScoresArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="[SCORES]",
        help="A run directory or its scores.safetensors; the newest run if left out.",
        show_default=False,
    ),
]
MeasureOption = Annotated[
    str | None,
    typer.Option("--measure", help="Which measure of the run to take.", show_default="the task's"),
]

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
Lengths = Annotated[
    str | None,
    typer.Option(
        help="Prompt lengths in tokens: start:stop:count or a comma list.",
        show_default="ten up to 10,000 or the model's window",
    ),
]
Depths = Annotated[
    str, typer.Option(help="Needle depths in per cent: start:stop:count or a comma list.")
]
Haystack = Annotated[
    str | None,
    typer.Option(
        help="Text file, folder, JSONL, hf:<dataset>[:column], or noise.",
        show_default="bundled essays; noise for nano",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
DeviceMap = Annotated[
    str | None,
    typer.Option(
        help="Spread a model over devices with accelerate: auto, balanced, sequential.",
        show_default=False,
    ),
]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")]
Chunk = Annotated[
    int | None,
    typer.Option(min=1, help="Tokens a forward pass.", show_default="by --memory-allowance"),
]
MemoryAllowance = Annotated[str, typer.Option(help="Memory beside the weights and one KV cache.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that the model's files bring.")
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

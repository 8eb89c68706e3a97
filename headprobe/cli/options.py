"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

Model = Annotated[
    str,
    typer.Option(
        help="An alias (see `headprobe list models`), a local directory, a GGUF file, a hub id, or "
        "hub-id:file.gguf.",
        show_default=True,
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything that is drawn.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps, xpu.")]
DeviceMap = Annotated[
    str | None,
    typer.Option(
        help="Spread a model over devices with accelerate: auto, balanced, sequential.",
        show_default=False,
    ),
]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16.")]
Attention = Annotated[
    str | None,
    typer.Option(
        "--attention",
        help="What computes attention: sdpa, eager, flash_attention_2.",
        show_default="what the model names, else sdpa",
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(help="Branch, tag or commit of a hub id.", show_default=False),
]
Adapter = Annotated[
    Path | None,
    typer.Option(help="Directory of a LoRA adapter to merge into the model.", show_default=False),
]
MaxContext = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=2**31,
        help="Positions that prompts may take.",
        show_default="what the model's configuration allows",
    ),
]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run code that the model's files bring.")
]
PrefillChunk = Annotated[
    int | None,
    typer.Option(
        min=1, help="Tokens a forward pass.", show_default="what --activation-memory permits"
    ),
]
ActivationMemory = Annotated[str, typer.Option(help="Memory beside the weights and one KV cache.")]
Depths = Annotated[
    str | None,
    typer.Option(
        help="Needle depths in per cent: start:stop:count or a comma list.",
        show_default="0:100:10",
    ),
]
Haystack = Annotated[
    str | None,
    typer.Option(
        # A bracket before a letter would be markup.
        help="Text file, folder, JSONL, hf:<dataset>\\[@configuration][:column], or noise.",
        show_default="bundled essays in the language of the needles; noise for nano",
    ),
]
PromptStyle = Literal["auto", "raw", "chat", "prefix", "shots"]
Prompt = Annotated[
    PromptStyle,
    typer.Option(
        help="How questions are put. raw: without chat template; chat: in the user's turn; prefix: "
        "the assistant's turn opens with the answer prefix; shots: prefix, after two worked "
        "examples; auto: raw without a chat template, else what the model passes most of a few "
        "short prompts."
    ),
]
AnswerPrefix = Annotated[str, typer.Option(help="What answers are written after.")]
ChatTemplate = Annotated[
    str | None,
    typer.Option(
        metavar="none|FILE",
        help="Another chat template than the model's own: a Jinja file, or none.",
        show_default=False,
    ),
]
Limit = Annotated[
    int,
    typer.Option(
        min=0,
        help="Cases at most, balanced over needles, lengths and depths; 0 runs all of them.",
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Start over, and replace what the directory holds.")
]
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
MinEntries = Annotated[
    int | None,
    typer.Option(
        help="tuned: entries beyond the window at which the floor of all heads stops.",
        show_default="4",
    ),
]
FillTo = Annotated[
    int | None,
    typer.Option(
        help="tuned: entries at which a head waits until all have as many.", show_default=False
    ),
]


def lengths(default: str) -> Any:
    """``--lengths`` of a command that asks prompts of some lengths where none are given."""
    return typer.Option(
        help="Prompt lengths in tokens: start:stop:count or a comma list.", show_default=default
    )


def needles(default: str) -> Any:
    """``--needles`` of a command that asks some where none are given."""
    return typer.Option(
        metavar="FILE|NAME",
        help="Needles: a JSONL file, or by name bundled ones: english, chinese, nano.",
        show_default=default,
    )


def seed(default: str) -> Any:
    """``--seed`` of a command that takes it from a run where it is not given."""
    return typer.Option(min=0, help="Seed of everything that is drawn.", show_default=default)

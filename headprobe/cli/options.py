"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from headprobe.cli import completion, output

# Panels of the help.
MODEL, CASES, PROMPT = "Model", "Cases", "Prompt"
SCORING, ANSWERS, ABLATION = "Scoring", "Answers", "Ablation"
SCORES, BUDGET, STRATEGY, FORMAT = "Scores", "Budget", "Options of strategies", "Format"
HUB = "Hub"
OUTPUT = "Output"

Granularity = Literal["kv", "query"]
Reduction = Literal["mean", "max", "sum"]
Metric = Literal["passed", "exact_match", "f1", "recall"]

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        metavar="NAME|PATH",
        help="An alias (see `headprobe list models`), a local directory, a GGUF file, a hub id, or "
        "hub-id:file.gguf.",
        show_default=True,
        autocompletion=completion.models,
        rich_help_panel=MODEL,
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of all random draws.", rich_help_panel=CASES)]
Device = Annotated[
    str,
    typer.Option(
        metavar="auto|cpu|cuda|cuda:1|mps|xpu",
        help="Device that the model runs on.",
        rich_help_panel=MODEL,
    ),
]
DeviceMap = Annotated[
    str | None,
    typer.Option(
        metavar="auto|balanced|sequential",
        help="Spread a model over devices with accelerate.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        metavar="auto|float32|bfloat16|float16",
        help="Type of the weights.",
        rich_help_panel=MODEL,
    ),
]
Attention = Annotated[
    str | None,
    typer.Option(
        "--attention",
        metavar="sdpa|eager|flash_attention_2|...",
        help="Implementation of attention.",
        show_default="what the model names, else sdpa",
        rich_help_panel=MODEL,
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(
        help="Branch, tag or commit of a hub id.", show_default=False, rich_help_panel=MODEL
    ),
]
Adapter = Annotated[
    Path | None,
    typer.Option(
        help="Directory of a LoRA adapter to merge into the model.",
        show_default=False,
        rich_help_panel=MODEL,
    ),
]
MaxContext = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=2**31,
        help="Most tokens that a prompt and its answer may have.",
        show_default="what the model's configuration allows",
        rich_help_panel=MODEL,
    ),
]
TrustRemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run Python code that comes with the model's files.",
        rich_help_panel=MODEL,
    ),
]
PrefillChunk = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Most tokens that a forward pass reads.",
        show_default="as --activation-memory allows",
        rich_help_panel=MODEL,
    ),
]
ActivationMemory = Annotated[
    str,
    typer.Option(
        help="Memory for activations, beside the weights and one KV cache: 1GiB, 512MiB.",
        rich_help_panel=MODEL,
    ),
]
Depths = Annotated[
    str | None,
    typer.Option(
        help="Needle depths in per cent: start:stop:count or a comma list.",
        show_default="0:100:10",
        rich_help_panel=CASES,
    ),
]
Haystack = Annotated[
    str | None,
    typer.Option(
        # A bracket before a letter would be markup.
        help="A folder or a file (.txt, .md, .json, .jsonl, .csv, .parquet), with :column after "
        "it for a column of a table; hf:<dataset>\\[@configuration][:column]; or noise.",
        show_default="bundled essays in the language of the needles; noise for nano",
        rich_help_panel=CASES,
    ),
]
Text = Annotated[
    str | None,
    typer.Option(
        help="The natural text of reconstruct, onthefly, reach, stability; as of --haystack.",
        show_default="bundled essays; noise for nano",
        rich_help_panel=CASES,
    ),
]
PromptStyle = Literal["auto", "raw", "chat", "prefix", "shots"]
Prompt = Annotated[
    PromptStyle,
    typer.Option(
        help="Place of the question. raw: without chat template; chat: in the user's turn; "
        "prefix: the assistant's turn opens with the answer prefix; shots: prefix after two worked "
        "examples; auto: raw without a chat template, else what the model passes most of a few "
        "short prompts.",
        rich_help_panel=PROMPT,
    ),
]
AnswerPrefix = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT",
        help="Text that the answer follows; by default Answer: in the question's language.",
        show_default=False,
        rich_help_panel=PROMPT,
    ),
]
ChatTemplate = Annotated[
    str | None,
    typer.Option(
        metavar="none|FILE",
        help="Another chat template than the model's own: a Jinja file, or none.",
        show_default=False,
        rich_help_panel=PROMPT,
    ),
]
Limit = Annotated[
    int,
    typer.Option(
        min=0,
        help="Cases at most, balanced over needles, lengths and depths; 0 runs all of them.",
        rich_help_panel=CASES,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Start over, and replace what the directory holds.",
        rich_help_panel=OUTPUT,
    ),
]
Json = Annotated[
    bool,
    typer.Option("--json", help="Print JSON on stdout instead of a table.", rich_help_panel=OUTPUT),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        callback=output.be_quiet,
        help="Say nothing but errors; of what is written print the path alone.",
        rich_help_panel=OUTPUT,
    ),
]
ScoresArgument = Annotated[
    Path | None,
    typer.Argument(
        metavar="SCORES",
        help="A run directory, its scores.safetensors, or hf:<owner>/<name> of the hub; the newest "
        "run if left out.",
        show_default=False,
        autocompletion=completion.runs,
    ),
]
MeasureOption = Annotated[
    str | None,
    typer.Option(
        "--measure",
        metavar="NAME",
        help="Measure of the run to take.",
        show_default="the task's",
        autocompletion=completion.measures,
        rich_help_panel=SCORES,
    ),
]
Beta = Annotated[
    float | None,
    typer.Option(
        help="headkv, tuned: a larger beta makes the pool that is divided by score smaller; "
        "pyramid: a larger beta makes the pyramid steeper.",
        show_default="the strategy's",
        rich_help_panel=STRATEGY,
    ),
]
MinEntries = Annotated[
    int | None,
    typer.Option(
        help="tuned: most entries beyond the window that every head has for sure.",
        show_default="4",
        rich_help_panel=STRATEGY,
    ),
]
FillTo = Annotated[
    int | None,
    typer.Option(
        help="tuned: fill every head up to so many entries before any head gets more.",
        show_default=False,
        rich_help_panel=STRATEGY,
    ),
]


def task(
    help: str,
    *,
    choices: str,
    default: str | bool = True,
    complete: Callable[[str], list[str]] = completion.asking_tasks,
) -> Any:
    """Build ``--task`` with its help and its ``choices``, as in "r2|retrieval"."""
    return typer.Option(
        "--task",
        "-t",
        metavar=choices,
        help=help,
        show_default=default,
        autocompletion=complete,
        rich_help_panel=CASES,
    )


def out(help: str, *, default: str | bool = True) -> Any:
    """Build ``--out``; ``default`` names what a command writes to where none is given."""
    return typer.Option(
        "--out", "-o", metavar="PATH", help=help, show_default=default, rich_help_panel=OUTPUT
    )


def window(default: str | bool = True) -> Any:
    """Build ``--window`` of allocate and evaluate."""
    return typer.Option(
        help="Newest entries that every head keeps.", show_default=default, rich_help_panel=BUDGET
    )


def granularity(default: str | bool = True) -> Any:
    """Build ``--granularity`` of allocate and evaluate."""
    return typer.Option(
        help="kv: a number for every KV head; query: for every query head.",
        show_default=default,
        rich_help_panel=BUDGET,
    )


def reduce(default: str, *, panel: str = BUDGET) -> Any:
    """Build ``--reduce``; ``default`` says whose reduction is taken where none is given."""
    return typer.Option(
        help="Rule that makes one score of the scores of a KV head's query heads.",
        show_default=default,
        rich_help_panel=panel,
    )


def metric(help: str, *, choices: str | None = None, default: str | bool = True) -> Any:
    """Build ``--metric``, by which answers are graded; ``default`` says which where none is."""
    return typer.Option(metavar=choices, help=help, show_default=default, rich_help_panel=ANSWERS)


def declared(method: str, *, panel: str = STRATEGY) -> Any:
    """Build ``--option``, which gives options that a ``method`` declares by their names."""
    return typer.Option(
        "--option",
        metavar="NAME=VALUE",
        help=f"An option that the {method} declares, as one of another package may; give it again "
        "for more.",
        show_default=False,
        rich_help_panel=panel,
    )


def questions(help: str) -> Any:
    """Build ``--questions`` of score and evaluate."""
    return typer.Option(metavar="FILE|hf:...", help=help, show_default=False, rich_help_panel=CASES)


def lengths(default: str) -> Any:
    """Build ``--lengths``; ``default`` names the lengths of a command where none are given."""
    return typer.Option(
        help="Prompt lengths in tokens: start:stop:count or a comma list.",
        show_default=default,
        rich_help_panel=CASES,
    )


def needles(default: str) -> Any:
    """Build ``--needles``; ``default`` names the needles of a command where none are given."""
    return typer.Option(
        metavar="FILE|NAME",
        help="Needles: a JSONL file, or by name bundled ones: english, chinese, nano.",
        show_default=default,
        rich_help_panel=CASES,
    )


def seed(default: str) -> Any:
    """Build ``--seed``; ``default`` says where a command takes the seed from if none is given."""
    return typer.Option(
        min=0, help="Seed of all random draws.", show_default=default, rich_help_panel=CASES
    )

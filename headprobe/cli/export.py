"""``headprobe export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from headprobe.cli import options, output, parsing


def export(
    out: Annotated[
        Path,
        options.out("The file to write; for duo a directory."),
    ],
    to: Annotated[
        str,
        typer.Option(
            metavar="FORMAT",
            help="What to write: see `headprobe list formats`.",
            rich_help_panel=options.FORMAT,
        ),
    ],
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="SCORES_OR_BUDGET",
            help="A run directory, its scores.safetensors or a budget's .json; "
            "the newest run if left out.",
            show_default=False,
        ),
    ] = None,
    measure: options.MeasureOption = None,
    reduce: Annotated[
        options.Reduction | None, options.reduce("the format's", panel=options.FORMAT)
    ] = None,
    sparsity: Annotated[
        float | None,
        typer.Option(
            help="Of scores, the fraction of the heads that stream, 0 to 1.",
            show_default="the format's",
            rich_help_panel=options.FORMAT,
        ),
    ] = None,
    sinks: Annotated[
        int | None,
        typer.Option(
            help="First entries of streaming heads.",
            show_default="the format's",
            rich_help_panel=options.FORMAT,
        ),
    ] = None,
    recent: Annotated[
        int | None,
        typer.Option(
            help="Newest entries of streaming heads.",
            show_default="the format's",
            rich_help_panel=options.FORMAT,
        ),
    ] = None,
    beta: Annotated[
        float | None,
        typer.Option(
            help="kvpress, attention-matching: HeadKV's beta.",
            show_default="1.2",
            rich_help_panel=options.FORMAT,
        ),
    ] = None,
    context_length: Annotated[
        int | None,
        typer.Option(
            help="Context in tokens, of which a budget's fractions are taken.",
            show_default=False,
            rich_help_panel=options.FORMAT,
        ),
    ] = None,
    layout: Annotated[
        Literal["flat", "layers"] | None,
        typer.Option(
            help="triattention: a table a head, or a table a layer with its frequencies.",
            show_default="flat where the model's rotation is plain",
            rich_help_panel=options.FORMAT,
        ),
    ] = None,
    option: Annotated[list[str] | None, options.declared("format", panel=options.FORMAT)] = None,
) -> None:
    """Write scores or a budget as a file that another program loads.

    Example: headprobe export outputs/nano/r2 --to headkv --out heads.json
    """
    from headprobe.budgets import HeadBudgets, is_budget_file
    from headprobe.formats import export_budget, export_scores, parse_options
    from headprobe.runs.directory import newest_run
    from headprobe.scores import HeadScores

    chosen: dict[str, Any] = {
        "measure": measure,
        "reduce": reduce,
        "sparsity": sparsity,
        "sinks": sinks,
        "recent": recent,
        "beta": beta,
        "context_length": context_length,
        "layout": layout,
    }
    source = file or newest_run()
    parsing.free_output(out, [source])
    of_budget = is_budget_file(source)
    declared = parse_options(to, option or [], of="budget" if of_budget else "scores")
    chosen = parsing.with_declared(chosen, declared)
    if of_budget:
        notes = export_budget(HeadBudgets.load(source), out, to=to, **chosen)
    else:
        notes = export_scores(HeadScores.load(source), out, to=to, **chosen)
    for line in notes:
        output.note(line)
    typer.echo(out)

"""``headprobe show``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headprobe.cli import completion, options, output


def show(
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="A run directory, its scores.safetensors, hf:<owner>/<name>, a budget or a "
            "report; the newest run if left out.",
            show_default=False,
            autocompletion=completion.results,
        ),
    ] = None,
    top_k: Annotated[
        int,
        typer.Option(
            min=1, help="Number of heads of a run to show.", rich_help_panel=options.OUTPUT
        ),
    ] = 20,
    measure: options.MeasureOption = None,
    seed: options.Seed = 0,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Show a run, a budget or a report as tables in the terminal, of a run also a heatmap.

    Example: headprobe show outputs/nano/r2 --top-k 5
    """
    from headprobe.budgets import HeadBudgets, is_budget_file
    from headprobe.cli.budgets import evaluating, summarise
    from headprobe.cli.heatmap import show_heatmap
    from headprobe.cli.report import show_report
    from headprobe.cli.runs import allocating, describe, show_top_heads
    from headprobe.runs.hub import local_run
    from headprobe.runs.pass_rates import pass_rates
    from headprobe.scores import HeadScores
    from headprobe.scores.titles import title

    if file is not None and file.suffix.lower() in (".html", ".htm"):
        show_report(file, measure=measure, top_k=top_k, json=json)
        return
    if file is not None and is_budget_file(file):
        budgets = HeadBudgets.load(file)
        summarise(budgets, json=json)
        output.note(f"next: {evaluating(file, budgets)}")
        return
    path = local_run(file)
    run = HeadScores.load(path)
    if not json:
        name = run.resolve(measure)
        show_heatmap(
            f"{run.layout.name}, {title(name)} of every head: layers down, query heads across",
            run.mean(name),
            group=run.layout.group_size,
        )
    show_top_heads(run, measure=measure, seed=seed, top_k=top_k, rates=pass_rates(path), json=json)
    describe(run, path=path)
    output.note(f"next: {allocating(path, run.task)}")

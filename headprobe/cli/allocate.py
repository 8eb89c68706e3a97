"""``headprobe allocate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from headprobe.cli import options, output


def allocate(
    scores: options.ScoresArgument = None,
    budget: Annotated[
        str,
        typer.Option(help="Cache entries a head on average: 128, or a share of the context: 1.5%."),
    ] = "128",
    strategy: Annotated[str, typer.Option(help="See `headprobe list strategies`.")] = "headkv",
    beta: Annotated[
        float | None,
        typer.Option(
            help="headkv: a larger beta shares out less; pyramid: how steep.",
            show_default="the strategy's",
        ),
    ] = None,
    window: Annotated[int, typer.Option(help="Newest entries that every head keeps.")] = 8,
    granularity: Annotated[
        str, typer.Option(help="kv: a budget a KV head; query: a budget a query head.")
    ] = "kv",
    reduce: Annotated[
        str | None,
        typer.Option(
            help="Query heads to KV heads: mean, max or sum.", show_default="the strategy's"
        ),
    ] = None,
    rounding: Annotated[
        str | None,
        typer.Option(
            help="exact keeps the total; paper gives the authors' integers.", show_default="exact"
        ),
    ] = None,
    context_length: Annotated[
        int | None,
        typer.Option(
            help="Clip heads at this many tokens, the surplus goes to the others.",
            show_default=False,
        ),
    ] = None,
    measure: options.MeasureOption = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The budget file.", show_default="budget-<strategy>-<budget>.json in the run"
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Turn a run's scores into a KV-cache budget for every head.

    Example: headprobe allocate outputs/nano/r2 --budget 128 --beta 1.2
    """
    from headprobe.allocators import allocate as divide
    from headprobe.allocators import parse_budget
    from headprobe.cli.budgets import summarise
    from headprobe.cli.runs import describe
    from headprobe.rundir import newest_run
    from headprobe.scores import HeadScores

    run = scores or newest_run()
    loaded = HeadScores.load(run)
    budgets = divide(
        loaded.mean(loaded.resolve(measure)),
        loaded.layout,
        strategy=strategy,
        budget=parse_budget(budget),
        window=window,
        granularity=granularity,
        beta=beta,
        reduce=reduce,
        rounding=rounding,
        context_length=context_length,
    )
    folder = run if run.is_dir() else run.parent
    path = out or folder / f"budget-{strategy}-{budget.replace('%', 'pct')}.json"
    budgets.save(path)
    summarise(budgets, json=json)
    describe(loaded)
    output.note(f"written to {path}")

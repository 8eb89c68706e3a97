"""``headprobe allocate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headprobe.cli import options, output
from headprobe.errors import UsageError

if TYPE_CHECKING:
    from headprobe.allocators.mixing import WeightedRun
    from headprobe.budgets import HeadBudgets


def allocate(
    run: options.ScoresArgument = None,
    scores: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RUN[:WEIGHT]",
            help="A run and its weight, in place of SCORES; several are mixed.",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="headkv, tuned, pyramid, uniform: cache entries a head on average, 128, or a "
            "share of the context, 1.5%.",
            show_default="128",
        ),
    ] = None,
    strategy: Annotated[str, typer.Option(help="See `headprobe list strategies`.")] = "headkv",
    beta: Annotated[
        float | None,
        typer.Option(
            help="headkv, tuned: a larger beta shares out less; pyramid: how steep.",
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
    min_entries: options.MinEntries = None,
    fill_to: options.FillTo = None,
    sparsity: Annotated[
        float | None,
        typer.Option(help="duo: fraction of the heads that stream, 0 to 1.", show_default="0.5"),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(help="top: number of heads that keep everything.", show_default=False),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="threshold: heads that score above it keep everything.", show_default="0.1"
        ),
    ] = None,
    induction: Annotated[
        float | None,
        typer.Option(help="razor: share of heads kept by induction.", show_default="0.14"),
    ] = None,
    echo: Annotated[
        float | None,
        typer.Option(help="razor: share of heads kept by echo.", show_default="0.01"),
    ] = None,
    sinks: Annotated[
        int | None,
        typer.Option(
            help="duo, razor, threshold, top: first entries that the other heads keep.",
            show_default="4 of razor, else 128",
        ),
    ] = None,
    recent: Annotated[
        int | None,
        typer.Option(
            help="duo, razor, threshold, top: newest entries that the other heads keep.",
            show_default="4000 of razor, else 256",
        ),
    ] = None,
    recent_fraction: Annotated[
        float | None,
        typer.Option(
            help="razor: share of the context that the other heads keep, if more.",
            show_default="0.2",
        ),
    ] = None,
    compensation: Annotated[
        bool | None,
        typer.Option(
            "--compensation/--no-compensation",
            help="razor: one entry more that stands for what was dropped.",
            show_default="compensation",
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
    """Turn a run's scores, or those of several runs, into a KV-cache budget for every head.

    Example: headprobe allocate outputs/nano/r2 --budget 128 --beta 1.2

    Example: headprobe allocate --scores outputs/nano/r2:0.7 --scores outputs/nano/retrieval:0.3
    """
    from headprobe.allocators import parse_budget
    from headprobe.allocators.mixing import allocate_runs
    from headprobe.cli.budgets import summarise, warn_if_whole
    from headprobe.cli.runs import describe

    runs = _runs(run, scores)
    budgets = allocate_runs(
        runs,
        measure=measure,
        strategy=strategy,
        budget=parse_budget(budget) if budget is not None else None,
        window=window,
        granularity=granularity,
        beta=beta,
        reduce=reduce,
        rounding=rounding,
        context_length=context_length,
        min_entries=min_entries,
        fill_to=fill_to,
        sparsity=sparsity,
        top_k=top_k,
        threshold=threshold,
        induction=induction,
        echo=echo,
        sinks=sinks,
        recent=recent,
        recent_fraction=recent_fraction,
        compensation=compensation,
    )
    path = out or _beside(Path(runs[0].name), budgets, mixed=len(runs) > 1)
    budgets.save(path)
    summarise(budgets, json=json)
    warn_if_whole(budgets, [source.scores for source in runs])
    for source in runs:
        describe(source.scores, name=source.name if len(runs) > 1 else None)
    output.note(f"written to {path}")


def _runs(run: Path | None, scores: list[str] | None) -> list[WeightedRun]:
    from headprobe.allocators.mixing import WeightedRun, parse_weighted
    from headprobe.runs.directory import newest_run
    from headprobe.scores import HeadScores

    if run is not None and scores:
        raise UsageError(f"give {run} as one of them, or leave them out", option="scores")
    weighted = [parse_weighted(text) for text in scores or []] or [(run or newest_run(), 1.0)]
    return [
        WeightedRun(name=str(path), scores=HeadScores.load(path), weight=weight)
        for path, weight in weighted
    ]


def _beside(run: Path, budgets: HeadBudgets, *, mixed: bool) -> Path:
    """Where a budget goes: into the directory of its run, of several the first."""
    folder = run if run.is_dir() else run.parent
    parts = [budgets.strategy["name"], budgets.strategy.get("budget"), "mixed" if mixed else None]
    name = "-".join(str(part) for part in parts if part is not None)
    return folder / f"budget-{name.replace('%', 'pct')}.json"

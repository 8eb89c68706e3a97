"""``headprobe allocate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from headprobe.cli import completion, options, output, parsing
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
            autocompletion=completion.runs,
            rich_help_panel=options.SCORES,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            "-b",
            metavar="TOKENS|PERCENT",
            help="Cache entries of a head on average: 128, or 1.5% of the context.",
            show_default="128",
            rich_help_panel=options.BUDGET,
        ),
    ] = None,
    strategy: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Rule that divides the budget: see `headprobe list strategies`.",
            autocompletion=completion.strategies,
            rich_help_panel=options.BUDGET,
        ),
    ] = "headkv",
    beta: options.Beta = None,
    window: Annotated[int, options.window()] = 8,
    granularity: Annotated[options.Granularity, options.granularity()] = "kv",
    reduce: Annotated[options.Reduction | None, options.reduce("the strategy's")] = None,
    selection: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Rule that chooses the entries of a head: see `headprobe list selections`.",
            show_default="attention, or what the strategy says",
            autocompletion=completion.selections,
            rich_help_panel=options.BUDGET,
        ),
    ] = None,
    rounding: Annotated[
        Literal["exact", "reference"] | None,
        typer.Option(
            help="exact: the total is the budget; reference: the integers of the authors' code.",
            show_default="exact",
            rich_help_panel=options.BUDGET,
        ),
    ] = None,
    context_length: Annotated[
        int | None,
        typer.Option(
            help="Context in tokens: no head gets more, others get the surplus.",
            show_default=False,
            rich_help_panel=options.BUDGET,
        ),
    ] = None,
    min_entries: options.MinEntries = None,
    fill_to: options.FillTo = None,
    sparsity: Annotated[
        float | None,
        typer.Option(
            help="duo: fraction of the heads that stream, 0 to 1.",
            show_default="0.5",
            rich_help_panel=options.STRATEGY,
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(
            help="top: number of heads that keep everything.",
            show_default=False,
            rich_help_panel=options.STRATEGY,
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            help="threshold: heads that score above it keep everything.",
            show_default="0.1",
            rich_help_panel=options.STRATEGY,
        ),
    ] = None,
    induction: Annotated[
        float | None,
        typer.Option(
            help="razor: fraction of the heads kept by induction.",
            show_default="0.14",
            rich_help_panel=options.STRATEGY,
        ),
    ] = None,
    echo: Annotated[
        float | None,
        typer.Option(
            help="razor: fraction of the heads kept by echo.",
            show_default="0.01",
            rich_help_panel=options.STRATEGY,
        ),
    ] = None,
    sinks: Annotated[
        int | None,
        typer.Option(
            help="duo, razor, threshold, top: first entries that the other heads keep.",
            show_default="4 for razor, else 128",
            rich_help_panel=options.STRATEGY,
        ),
    ] = None,
    recent: Annotated[
        int | None,
        typer.Option(
            help="duo, razor, threshold, top: newest entries that the other heads keep.",
            show_default="4000 for razor, else 256",
            rich_help_panel=options.STRATEGY,
        ),
    ] = None,
    recent_fraction: Annotated[
        float | None,
        typer.Option(
            help="razor: fraction of the context that the other heads keep, where it is more.",
            show_default="0.2",
            rich_help_panel=options.STRATEGY,
        ),
    ] = None,
    compensation: Annotated[
        bool | None,
        typer.Option(
            "--compensation/--no-compensation",
            help="razor: add one entry that stands for all dropped ones.",
            show_default="compensation",
            rich_help_panel=options.STRATEGY,
        ),
    ] = None,
    option: Annotated[list[str] | None, options.declared("strategy")] = None,
    measure: options.MeasureOption = None,
    out: Annotated[
        Path | None,
        options.out("The budget file.", default="budget-<strategy>-<budget>.json in the run"),
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Turn a run's scores, or those of several runs, into a KV-cache budget for every head.

    Example: headprobe allocate outputs/nano/r2 --budget 128 --beta 1.2

    Example: headprobe allocate --scores outputs/nano/r2:0.7 --scores outputs/nano/retrieval:0.3
    """
    from headprobe.allocators import parse_budget, parse_options
    from headprobe.allocators.mixing import allocate_runs
    from headprobe.cli.budgets import evaluating, summarise, warn_if_whole
    from headprobe.cli.runs import describe

    runs = _runs(run, scores)
    parsing.free_output(out, [Path(source.name) for source in runs])
    given = {
        "beta": beta,
        "reduce": reduce,
        "rounding": rounding,
        "context_length": context_length,
        "min_entries": min_entries,
        "fill_to": fill_to,
        "sparsity": sparsity,
        "top_k": top_k,
        "threshold": threshold,
        "induction": induction,
        "echo": echo,
        "sinks": sinks,
        "recent": recent,
        "recent_fraction": recent_fraction,
        "compensation": compensation,
    }
    declared = parse_options(strategy, option or [])
    budgets = allocate_runs(
        runs,
        measure=measure,
        strategy=strategy,
        budget=parse_budget(budget) if budget is not None else None,
        window=window,
        granularity=granularity,
        selection=selection,
        **parsing.with_declared(given, declared),
    )
    path = out or _beside(Path(runs[0].name), budgets, mixed=len(runs) > 1)
    budgets.save(path)
    if json or not quiet:
        summarise(budgets, json=json)
    warn_if_whole(budgets, [source.scores for source in runs])
    for source in runs:
        describe(source.scores, name=source.name if len(runs) > 1 else None)
    output.written(path, then=f"headprobe plot, or {evaluating(path, budgets)}", json=json)


def _runs(run: Path | None, scores: list[str] | None) -> list[WeightedRun]:
    from headprobe.allocators.mixing import WeightedRun, parse_weighted
    from headprobe.runs.hub import local_runs, shown_name
    from headprobe.scores import HeadScores

    if run is not None and scores:
        raise UsageError(f"give {run} as one of them, or leave them out", option="scores")
    weighted = [parse_weighted(text) for text in scores or []] or []
    paths = local_runs([path for path, _ in weighted] or ([run] if run else []))
    weights = [weight for _, weight in weighted] or [1.0]
    return [
        WeightedRun(name=shown_name(path), scores=HeadScores.load(path), weight=weight)
        for path, weight in zip(paths, weights, strict=True)
    ]


def _beside(run: Path, budgets: HeadBudgets, *, mixed: bool) -> Path:
    """Choose where a budget goes: into the directory of its run, of several runs the first."""
    from headprobe.runs.hub import place_of

    parts = [budgets.strategy["name"], budgets.strategy.get("budget"), "mixed" if mixed else None]
    name = "-".join(str(part) for part in parts if part is not None)
    return place_of(run) / f"budget-{name.replace('%', 'pct')}.json"

"""``headprobe export``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from headprobe.cli import completion, options, output, parsing
from headprobe.errors import UsageError

HUB = "hub"


def export(
    to: Annotated[
        str,
        typer.Option(
            metavar="FORMAT|hub",
            help="Format to write: see `headprobe list formats`; hub: the whole run, for others to "
            "pull.",
            autocompletion=completion.formats,
            rich_help_panel=options.FORMAT,
        ),
    ],
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="SCORES_OR_BUDGET",
            help="A run directory, its scores.safetensors, hf:<owner>/<name> or a budget's .json; "
            "the newest run if left out.",
            show_default=False,
            autocompletion=completion.results,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        options.out("The file to write, for duo a directory; not for hub.", default=False),
    ] = None,
    repo: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="hub: the repository, made where it is missing.",
            show_default=False,
            rich_help_panel=options.HUB,
        ),
    ] = None,
    private: Annotated[
        bool,
        typer.Option(
            "--private", help="hub: make it a private repository.", rich_help_panel=options.HUB
        ),
    ] = False,
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
    quiet: options.Quiet = False,
) -> None:
    """Write scores or a budget as a file that another program loads.

    Example: headprobe export outputs/nano/r2 --to headkv --out heads.json

    Example: headprobe export outputs/nano/r2 --to hub --repo me/nano-r2-heads
    """
    from headprobe.budgets import HeadBudgets, is_budget_file
    from headprobe.formats import export_budget, export_scores, parse_options
    from headprobe.runs.hub import local_run
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
    source = local_run(file)
    of_budget = is_budget_file(source)
    if to == HUB:
        unused = {"out": out, "option": option, **chosen}
        _refuse_given({name: value for name, value in unused.items() if value is not None}, to)
        _publish(source, repo, of_budget=of_budget, private=private)
        return
    _refuse_given({"repo": repo} if repo else {"private": private} if private else {}, to)
    if out is None:
        raise UsageError("name the file to write", option="out")
    parsing.free_output(out, [source])
    declared = parse_options(to, option or [], of="budget" if of_budget else "scores")
    chosen = parsing.with_declared(chosen, declared)
    if of_budget:
        notes = export_budget(HeadBudgets.load(source), out, to=to, **chosen)
    else:
        notes = export_scores(HeadScores.load(source), out, to=to, **chosen)
    for line in notes:
        output.note(line)
    output.print_path(out)


def _refuse_given(unused: Mapping[str, object], to: str) -> None:
    for name in unused:
        raise UsageError(f"`to={to}` takes none: leave it out", option=name)


def _publish(run: Path, repo: str | None, *, of_budget: bool, private: bool) -> None:
    """Put a run on the hub, and say how others take it from there."""
    from headprobe.runs.publish import publish_run

    if repo is None:
        raise UsageError("name the repository, as in owner/name", option="repo")
    if of_budget:
        message = f"{run} is a budget; a run goes to the hub, of which others allocate their own"
        raise UsageError(message, path=run)
    name = publish_run(run, repo, draw=_draw, private=private)
    output.note(f"next, anywhere: headprobe allocate hf:{name} --budget 128")
    output.print_path(f"hf:{name}")


def _draw(run: Path, path: Path) -> None:
    from headprobe.cli.plot import read_picture
    from headprobe.plots import draw, save

    save(draw([read_picture(run)]), path)

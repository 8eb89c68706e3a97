"""``headprobe report``, and what ``headprobe show`` makes of a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headprobe.cli import completion, options, output, parsing
from headprobe.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

REPORT = "report.html"


def report(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATH",
            help="Run directories, hf:<owner>/<name>, budgets, directories of evaluations and "
            "ablations, or folders of these; the newest run and what lies beside it if left out.",
            show_default=False,
            autocompletion=completion.results,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        options.out("The report, an HTML file.", default="report.html beside what comes first"),
    ] = None,
    quiet: options.Quiet = False,
) -> None:
    """Put runs, budgets, evaluations and ablations into one HTML file that opens offline.

    Example: headprobe report outputs/nano/r2 --out report.html
    """
    from headprobe.report import build_record, find_sources, room, write_page
    from headprobe.runs.hub import local_run, place_of
    from headprobe.runs.memory import byte_size

    parsing.free_output(out, paths or [])
    sources = find_sources([local_run(path) for path in paths or []])
    record = build_record(sources, room=room())
    path = out or place_of(sources.place) / REPORT
    size = write_page(record, path)
    if record["left_out"]:
        output.note(f"left out, to keep the file small: {', '.join(record['left_out'])}")
    if record["runs"] and not any(run["kept"] for run in record["runs"]):
        output.note("to see what heads read: score with --keep-rows 6, then report again")
    output.note(
        f"{sources.describe()} in {byte_size(size)}; next: open it in a browser, or headprobe show "
        f"{path}"
    )
    output.print_path(path)


def show_report(path: Path, *, measure: str | None, top_k: int, json: bool) -> None:
    """Show what a report holds: the top heads of its runs, its budgets, its evaluations."""
    from headprobe.report import read_page

    record = read_page(path)
    if json:
        output.show_json(record)
        return
    for run in record["runs"]:
        _show_run(run, measure, top_k)
    if record["budgets"]:
        _show_budgets(record["budgets"])
    for evaluation in record["evaluations"]:
        _show_evaluation(evaluation)


def _show_run(run: Mapping[str, Any], measure: str | None, top_k: int) -> None:
    measures = {found["name"]: found for found in run["measures"]}
    if measure is not None and measure not in measures:
        raise UsageError(f"the run holds {', '.join(measures)}", option="measure", value=measure)
    found = measures[measure] if measure else run["measures"][0]
    columns = ("rank", "score", "ci_low", "ci_high")
    heads = sorted(
        (numbers[0], layer, head, *numbers[1:])
        for layer, rows in enumerate(zip(*(found[name] for name in columns), strict=True))
        for head, numbers in enumerate(zip(*rows, strict=True))
    )
    title = (
        f"{run['model']['id']}, {run['task']}: {found['name']} of the top {min(top_k, len(heads))} "
        f"of {len(heads)} heads; {run['accepted']} of {run['cases']} cases passed"
    )
    names = ["rank", "layer", "head", *columns[1:]]
    output.show_table(title, names, [list(head) for head in heads[:top_k]])


def _show_budgets(budgets: list[Mapping[str, Any]]) -> None:
    from headprobe.runs.memory import byte_size

    rows = [
        [
            budget["strategy"]["name"],
            str(budget["strategy"].get("budget", "-")),
            *(byte_size(kept["bytes"]) for kept in budget["kept"]),
            budget["name"] or "divided for the report",
        ]
        for budget in sorted(budgets, key=lambda budget: budget["kept"][1]["bytes"])
    ]
    contexts = [f"of {kept['context_length']:,} tokens" for kept in budgets[0]["kept"]]
    output.show_table("budgets", ["strategy", "budget", *contexts, "file"], rows)


def _show_evaluation(evaluation: Mapping[str, Any]) -> None:
    columns = ["setting", "strategy", "budget", "cache %", evaluation["metric"]]
    rows = [
        [
            point["setting"],
            point["name"],
            point["budget"],
            f"{100 * point['fraction']:.2f}",
            f"{point['value']:.1f} ({point['ci_low']:.0f} to {point['ci_high']:.0f})",
        ]
        for point in evaluation["points"]
    ]
    title = (
        f"{evaluation['model']['id']}, {evaluation['asked']}: {evaluation['questions']} questions"
    )
    output.show_table(title, columns, rows)

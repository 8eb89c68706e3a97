"""``headprobe compare``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headprobe.cli import completion, options, output, parsing
from headprobe.errors import UsageError

if TYPE_CHECKING:
    from headprobe.scores.comparison import Comparison


def compare(
    scores: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SCORES",
            help="Run directories, their scores.safetensors, or hf:<owner>/<name>; the newest run "
            "if left out.",
            show_default=False,
            autocompletion=completion.runs,
        ),
    ] = None,
    measure: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A measure to take of every run; give it again for more.",
            show_default="each task's; all of a single run",
            autocompletion=completion.measures,
            rich_help_panel=options.SCORES,
        ),
    ] = None,
    by_needle: Annotated[
        bool,
        typer.Option(
            "--by-needle",
            help="Split one run: each needle against the others.",
            rich_help_panel=options.SCORES,
        ),
    ] = False,
    top_k: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of heads that make the top.",
            show_default="30, or an eighth of all",
            rich_help_panel=options.SCORES,
        ),
    ] = None,
    out: Annotated[
        Path | None, options.out("Draw it too: .png, .svg or .pdf.", default=False)
    ] = None,
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Compare how runs, tasks, measures, models or needles rank the heads.

    Example: headprobe compare outputs/nano/r2 outputs/nano/retrieval --out compared.png
    """
    from headprobe.runs.hub import local_runs, shown_name
    from headprobe.scores import HeadScores
    from headprobe.scores.comparison import compare_needles, compare_runs

    paths, measures = local_runs(scores or []), measure or []
    parsing.free_output(out, paths)
    runs = [(shown_name(path), HeadScores.load(path)) for path in paths]
    if by_needle:
        if len(runs) > 1 or len(measures) > 1:
            message = "splits one run by one measure: name no more than that"
            raise UsageError(message, option="by_needle")
        compared = compare_needles(runs[0][1], measure=next(iter(measures), None), k=top_k)
    else:
        compared = compare_runs(runs, measures=measures, k=top_k)
    if out:
        from headprobe.plots import draw_comparison, save

        save(draw_comparison(compared), out)
        output.note(f"drawn to {out}")
    _show(compared, json=json)


def _show(compared: Comparison, *, json: bool) -> None:
    rows = [asdict(agreement) for agreement in compared.agreements]
    if json:
        output.show_json(
            {
                "subject": compared.subject,
                "heads": compared.heads,
                "k": compared.k,
                "agreements": rows,
            }
        )
        return
    from headprobe.runs.titles import runs_facts

    of = f"{compared.subject}: " if compared.subject else ""
    title = (
        f"{of}overlap of the top {compared.k} of {compared.heads} heads, "
        f"{compared.k / compared.heads:.2f} by chance"
    )
    title = "\n".join([title, *runs_facts(compared.runs)])
    columns = ["one", "other", "rank_correlation", "overlap"]
    output.show_table(title, columns, [[row[column] for column in columns] for row in rows])

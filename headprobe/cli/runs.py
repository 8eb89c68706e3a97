"""How a run reads in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headprobe.cli import output

if TYPE_CHECKING:
    from headprobe.scores import HeadScores


def describe(run: HeadScores, *, name: str | None = None) -> None:
    """The share of accepted cases, if there are any, on stderr; a warning where it is low.

    ``name`` tells the run from others.
    """
    from headprobe.tasks import WEIGHT_TASKS

    if run.task in WEIGHT_TASKS:
        return
    line = f"{_acceptance(run)} ({run.accepted / run.cases:.0%})"
    line = line if name is None else f"{name}: {line}"
    if run.few_accepted:
        output.warn(
            f"{line}: the scores rest on the cases that the model happens to answer; "
            "try shorter --lengths or a model that passes the probe"
        )
    else:
        output.note(line)


def top_heads(
    run: HeadScores, *, measure: str | None, seed: int, top: int, json: bool = False
) -> None:
    """The heads with the highest scores, as a table or as JSON."""
    from headprobe.rundir import head_table

    name = run.resolve(measure)
    heads = head_table(run, seed=seed)
    chosen = heads[heads["measure"] == name].sort_values("rank").head(top)
    if json:
        output.show_json(
            {
                "model": run.layout.to_json(),
                "task": run.task,
                "measure": name,
                "accepted": run.accepted,
                "cases": run.cases,
                "heads": chosen.to_dict("records"),
            }
        )
        return
    title = (
        f"{run.layout.id}, {run.task}: {name} of the top {len(chosen)} of {len(heads)} heads; "
        f"{_acceptance(run)}"
    )
    columns = ["rank", "layer", "head", "kv_head", "score", "std", "ci_low", "ci_high"]
    output.show_table(title, columns, chosen[columns].astype(object).values.tolist())


def _acceptance(run: HeadScores) -> str:
    from headprobe.tasks import WEIGHT_TASKS

    if run.task in WEIGHT_TASKS:
        return "from the weights alone"
    return f"{run.accepted} of {run.cases} cases accepted"

"""``headprobe list``."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from headprobe.cli import options, output

_Table = tuple[Sequence[str], Sequence[Sequence[object]]]


class Registry(StrEnum):
    """The registries that can be listed."""

    MODELS = "models"
    TASKS = "tasks"
    MEASURES = "measures"
    STRATEGIES = "strategies"
    SELECTIONS = "selections"
    BENCHMARKS = "benchmarks"
    FORMATS = "formats"


def list_registry(
    what: Annotated[
        Registry,
        typer.Argument(metavar="REGISTRY", help="Registry to list.", show_default=False),
    ],
    json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """List models with an alias, tasks, measures, strategies, selections, benchmarks or formats.

    Example: headprobe list tasks
    """
    columns, rows = _ROWS[what]()
    if json:
        output.show_json([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        output.show_table(what.value, columns, rows)


def _models() -> _Table:
    from headprobe.models.aliases import ALIASES

    rows = [
        [
            alias,
            model.repository,
            model.layers,
            model.num_heads,
            model.num_kv_heads,
            model.max_context,
        ]
        for alias, model in ALIASES.items()
    ]
    return ["alias", "loads", "layers", "heads", "KV heads", "max context"], rows


def _tasks() -> _Table:
    from headprobe.tasks import TASKS

    rows = [[name, ", ".join(task.measures), task.summary] for name, task in TASKS.items()]
    return ["task", "measures", "what it probes"], rows


def _measures() -> _Table:
    from headprobe.measures import TEXT_MEASURES, get_measure, measure_names
    from headprobe.tasks import TASKS

    summaries = {name: get_measure(name).summary for name in measure_names()}
    summaries |= {name: measure.summary for name, measure in TEXT_MEASURES.items()}
    rows = []
    for name, summary in summaries.items():
        tasks = [task for task, taking in TASKS.items() if name in taking.offered]
        rows.append([name, ", ".join(tasks), summary])
    of_weights = [task for task in TASKS.values() if not task.needs_cases]
    rows += [[name, task.name, task.summary] for task in of_weights for name in task.measures]
    return ["measure", "tasks", "what it is"], rows


def _strategies() -> _Table:
    from headprobe.allocators import get_strategy, strategy_names

    rows = []
    for name in strategy_names():
        strategy = get_strategy(name)
        rows.append(
            [name, strategy.summary, ", ".join(strategy.reads), ", ".join(strategy.options)]
        )
    return ["strategy", "what it does", "reads", "options"], rows


def _selections() -> _Table:
    from headprobe.compression.selections import get_selection, selection_names

    rows = [[name, get_selection(name).summary] for name in selection_names()]
    return ["selection", "which entries a head keeps"], rows


def _benchmarks() -> _Table:
    from headprobe.evaluation.benchmarks.registry import BENCHMARKS

    rows = [
        [
            protocol.name,
            ", ".join(protocol.metrics),
            protocol.max_new_tokens,
            "made here" if name in benchmark.generated else "read",
            benchmark.summary,
        ]
        for benchmark in BENCHMARKS.values()
        for name, protocol in benchmark.protocols.items()
    ]
    return ["benchmark", "metrics", "new tokens", "rows", "what it asks"], rows


def _formats() -> _Table:
    from headprobe.formats import format_names, get_format

    rows = []
    for name in format_names():
        entry = get_format(name)
        written = [
            what
            for what, write in (("scores", entry.write_scores), ("budgets", entry.write_budget))
            if write
        ]
        read = "scores" if entry.read else ""
        rows.append([name, entry.summary, entry.file, ", ".join(written), read, entry.programs])
    return ["format", "what it holds", "file", "writes", "reads", "programs"], rows


_ROWS = {
    Registry.MODELS: _models,
    Registry.TASKS: _tasks,
    Registry.MEASURES: _measures,
    Registry.STRATEGIES: _strategies,
    Registry.SELECTIONS: _selections,
    Registry.BENCHMARKS: _benchmarks,
    Registry.FORMATS: _formats,
}

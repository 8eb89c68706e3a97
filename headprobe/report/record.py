"""Put a report's record together: all that must be in it, and of the rest as much as fits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headprobe import __version__
from headprobe.report.budgets import all_budgets
from headprobe.report.cases import WHY, kept_case_record
from headprobe.report.charts import ablation_chart, evaluation_charts
from headprobe.report.packing import clean, counted
from headprobe.report.results import ablation_record, agreements, evaluation_record
from headprobe.report.runs import case_parts, run_record
from headprobe.report.sources import Sources
from headprobe.runs.kept_rows import read_rows
from headprobe.scores import HeadScores

FORMAT, VERSION = "headprobe-report", 1


@dataclass(frozen=True, eq=False, kw_only=True)
class _Part:
    """A part of a record that may be left out, and where it goes; lower ``order`` goes in first."""

    order: int
    name: str
    into: dict[str, Any] | list[Any]
    key: str
    value: Any


def build_record(sources: Sources, *, room: int) -> dict[str, Any]:
    """Build a report's record, which JSON can hold.

    Args:
        sources: what to report on.
        room: the most bytes of JSON. Parts that would exceed it are named in ``left_out``: first
            the cases of measures other than the task's own, then kept cases.

    Raises:
        HeadprobeError: a file of a run is damaged.
    """
    runs = [run_record(path, scores) for path, scores in sources.runs.items()]
    _tell_apart(runs)
    parts = [
        part
        for record, (path, scores) in zip(runs, sources.runs.items(), strict=True)
        for part in _parts(record, path, scores)
    ]
    budgets = all_budgets(sources)
    evaluations = [evaluation_record(str(p), e) for p, e in sources.evaluations.items()]
    ablations = [ablation_record(str(p), a) for p, a in sources.ablations.items()]
    for evaluation in evaluations:
        evaluation["charts"] = evaluation_charts(evaluation, budgets)
    for ablation in ablations:
        ablation["charts"] = [ablation_chart(ablation)]
    record: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "headprobe": __version__,
        **_heading(runs, [*runs, *budgets, *evaluations, *ablations]),
        "runs": runs,
        "budgets": budgets,
        "evaluations": evaluations,
        "ablations": ablations,
        "agreements": agreements(list(sources.runs.values())),
        "left_out": [],
    }
    return _fill(record, parts, room)


def _tell_apart(runs: Sequence[dict[str, Any]]) -> None:
    """Label each run by model and task, and by its path too where others have both."""
    labels = [f"{run['model']['name']}, {run['task']}" for run in runs]
    for run, label in zip(runs, labels, strict=True):
        run["label"] = f"{label} ({run['name']})" if labels.count(label) > 1 else label


def _heading(
    runs: Sequence[Mapping[str, Any]], told: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """Return the title, which names the models, and the subtitle: their heads, the runs' cases."""
    models: dict[str, Mapping[str, Any]] = {}
    for one in told:
        models.setdefault(one["model"]["name"], one["model"])
    shapes = [
        f"{counted(model['layers'], 'layer')} of {counted(model['heads'], 'query head')}"
        + (f" on {counted(model['kv_heads'], 'KV head')}" if _is_grouped(model) else "")
        for model in models.values()
        if "layers" in model and len(models) == 1
    ]
    named = "label" if len(models) > 1 else "task"
    cases = [f"{run[named]}: {run['passed'].partition('.')[0]}" for run in runs]
    return {
        "title": ", ".join(models) or "headprobe report",
        "subtitle": " \N{MIDDLE DOT} ".join([*shapes, *cases]),
    }


def _is_grouped(model: Mapping[str, Any]) -> bool:
    return bool(model["kv_heads"] < model["heads"])


def _parts(record: dict[str, Any], path: Path, scores: HeadScores) -> Iterator[_Part]:
    record["table"], record["kept"], record["heads"] = None, [], []
    for name, value in case_parts(path, scores):
        if name == "table":
            yield _Part(order=0, name="cases", into=record, key="table", value=value)
            continue
        index = scores.measures.index(name)
        yield _Part(
            order=1 if index == 0 else 3,
            name=f"the cases of {name}",
            into=record["measures"][index],
            key="details",
            value=value,
        )
    rows = read_rows(path)
    if rows is None:
        return
    record["heads"] = [list(head) for head in rows.heads]
    for kept in sorted(rows.cases, key=lambda kept: list(WHY).index(kept.why)):
        value = kept_case_record(kept)
        yield _Part(order=2, name=f"case {kept.case_id}", into=record["kept"], key="", value=value)


def _fill(record: dict[str, Any], parts: list[_Part], room: int) -> dict[str, Any]:
    """Put in the parts that fit, in their order, and name the others."""
    left = room - _size(record)
    for part in sorted(parts, key=lambda part: part.order):
        value = clean(part.value)
        size = _size(value)
        if size > left:
            record["left_out"].append(part.name)
        elif isinstance(part.into, list):
            part.into.append(value)
        else:
            part.into[part.key] = value
        left -= size if size <= left else 0
    cleaned: dict[str, Any] = clean(record)
    return cleaned


def _size(value: Any) -> int:
    return len(json.dumps(clean(value), separators=(",", ":")))

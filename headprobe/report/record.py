"""Put a report's record together: all that must be in it, and of the rest as much as fits."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headprobe import __version__
from headprobe.report.budgets import budget_record, divided
from headprobe.report.cases import kept_case_record
from headprobe.report.packing import clean
from headprobe.report.results import ablation_record, agreements, evaluation_record
from headprobe.report.runs import case_parts, run_record
from headprobe.report.sources import Sources
from headprobe.runs.kept_rows import read_rows
from headprobe.scores import HeadScores
from headprobe.tasks import find_task

FORMAT, VERSION = "headprobe-report", 1


@dataclass(frozen=True, eq=False, kw_only=True)
class _Part:
    """A part of a record that may be left out, and where it goes; lower ``order`` goes in first."""

    order: int
    name: str
    into: dict[str, Any] | list[Any]
    key: str
    value: Any


def build_record(
    sources: Sources, *, room: int, summaries: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Build a report's record, which JSON can hold.

    Args:
        sources: what to report on.
        room: the most bytes of JSON. Parts that would exceed it are named in ``left_out``: first
            the cases of measures other than the task's own, then kept cases.
        summaries: a line on each measure, by name.

    Raises:
        HeadprobeError: a file of a run is damaged.
    """
    runs = [run_record(path, scores, summaries or {}) for path, scores in sources.runs.items()]
    parts = [
        part
        for record, (path, scores) in zip(runs, sources.runs.items(), strict=True)
        for part in _parts(record, path, scores)
    ]
    budgets = [budget_record(str(path), budget) for path, budget in sources.budgets.items()]
    layouts: list[Any] = []
    for scores in sources.runs.values():
        if scores.layout not in layouts:
            layouts.append(scores.layout)
            told = {(one["strategy"].get("name"), one["strategy"].get("budget")) for one in budgets}
            budgets += [
                one
                for one in divided(scores)
                if (one["strategy"]["name"], one["strategy"]["budget"]) not in told
            ]
    record: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "headprobe": __version__,
        "runs": runs,
        "budgets": budgets,
        "evaluations": [evaluation_record(str(p), e) for p, e in sources.evaluations.items()],
        "ablations": [ablation_record(str(p), a) for p, a in sources.ablations.items()],
        "agreements": agreements(list(sources.runs.values())),
        "left_out": [],
    }
    return _fill(record, parts, room)


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
    task = find_task(scores.task)
    counts_all = task is None or task.probe.counts_all_steps or not task.asks
    for kept in rows.cases:
        counted = slice(None) if counts_all else slice(kept.step_start, kept.step_end)
        value = kept_case_record(kept, counted if kept.bins[counted].size else slice(None))
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

"""The part of a report's record that tells of one run: scores, statistics, grids, cases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from headprobe.errors import HeadprobeError
from headprobe.prompts.style import PromptDecision
from headprobe.report.packing import brief, counted, pack, pack_json, rounded, versions
from headprobe.runs.directory import read_cases, read_report
from headprobe.runs.hub import shown_name
from headprobe.scores import HeadScores
from headprobe.stats.reliability import Reliability
from headprobe.tasks import find_task

if TYPE_CHECKING:
    import pandas as pd

EXTREMES = 3
"""The number of cases that a head is shown with on which it scores highest, and lowest."""
_TENS = [10.0 * step for step in range(11)]
_TEXTS = ("kind", "answer", "wrong_answer")
_COLUMNS = (
    *("case_id", "needle_id", "length", "depth", "success", "accepted", "response"),
    *_TEXTS,
)
_EMPTY, _LEVELS = 0, 254


def run_record(run: Path, scores: HeadScores) -> dict[str, Any]:
    """Build what is always told of a run: its model, its plan, and the scores of every head."""
    seed = scores.plan.get("seed", 0)
    report = read_report(run)
    summaries = report.get("summaries") or {}
    prompt = PromptDecision.in_record(scores.plan)
    task = find_task(scores.task)
    group = scores.layout.group_size
    return {
        "name": shown_name(run),
        "model": scores.layout.to_json() | {"name": scores.layout.name},
        "task": scores.task,
        "asks": task is None or task.asks,
        "passed": _passed(scores, report.get("failed") or {}, asks=task is None or task.asks),
        "accepted": scores.passed,
        "cases": scores.cases,
        "columns": f"query heads, {group} to a KV head" if group > 1 else "query heads",
        "facts": {
            "model": scores.layout.id,
            **brief(scores.plan),
            **({"prompt": prompt.describe()} if prompt else {}),
            **{name: report[name] for name in ("started", "seconds") if name in report},
            "versions": versions(scores.versions),
        },
        "measures": [
            {
                "name": name,
                "summary": ": ".join(filter(None, (name, summaries.get(name)))),
                **_measure(scores, name, seed),
            }
            for name in scores.measures
        ],
    }


def _measure(scores: HeadScores, name: str, seed: int) -> dict[str, Any]:
    numbers = scores.statistics(name, seed=seed)
    reliability = scores.reliability(name, seed=seed)
    grouped = numbers.mean.reshape(len(numbers.mean), scores.layout.num_kv_heads, -1).mean(axis=2)
    order = np.argsort(np.argsort(-grouped, axis=None, kind="stable"))
    return {
        "reliability": reliability.to_json(),
        "firmness": _firmness(reliability),
        "kv": {"score": rounded(grouped), "rank": (1 + order).reshape(grouped.shape).tolist()},
        "score": rounded(numbers.mean),
        "ci_low": rounded(numbers.ci_low),
        "ci_high": rounded(numbers.ci_high),
        "rank": numbers.rank.tolist(),
    }


def _passed(scores: HeadScores, failed: Mapping[str, int], *, asks: bool) -> str:
    """Count the cases that passed, and of the others how they failed."""
    if not asks:
        return f"{counted(scores.cases, 'case')}; nothing is asked."
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in failed.items())
    passed = f"{scores.passed:,} of {counted(scores.cases, 'case')} passed."
    return f"{passed} Failed: {kinds}." if kinds else passed


def _firmness(found: Reliability) -> str:
    if found.rank_correlation is None:
        needles = counted(found.needles, "needle")
        return f"How firm the ranking is, is unknown: passed cases have {needles}."
    alike = found.rank_correlation.text()
    return f"Halves of the {found.needles:,} needles rank the heads alike: {alike}."


def case_parts(run: Path, scores: HeadScores) -> Iterator[tuple[str, Any]]:
    """Yield what is told of a run's cases: first ``table``, then each measure's ``details``.

    Raises:
        HeadprobeError: the case table is damaged, or of another run than the scores.
    """
    table = read_cases(run, _COLUMNS)
    if table is None:
        return
    if (len(table), int(table["accepted"].sum())) != (scores.cases, scores.passed):
        raise HeadprobeError(
            f"the scores and the cases in {run} are of different runs; run `headprobe score` again",
            path=run,
        )
    planned = np.asarray(scores.plan.get("depths") or _TENS, dtype=np.float64)
    nearest = np.abs(table["depth"].to_numpy()[:, None] - planned).argmin(axis=1)
    depths, row = np.unique(planned[nearest], return_inverse=True)
    lengths, column = np.unique(table["length"].to_numpy(), return_inverse=True)
    task = find_task(scores.task)
    columns = _columns(table, asks=task is None or task.asks)
    yield (
        "table",
        pack_json({**columns, "lengths": lengths.tolist(), "depths": depths.tolist()}),
    )
    passed = np.flatnonzero(table["accepted"])
    cells = (row * len(lengths) + column)[passed]
    for name in scores.measures:
        yield name, _details(scores.per_case[name], cells, (len(depths), len(lengths)), passed)


def _columns(table: pd.DataFrame, *, asks: bool) -> dict[str, list[Any]]:
    """Return the columns of the case table, and in words where the needle is and the grade."""
    columns = {name: table[name].tolist() for name in _COLUMNS}
    columns["depth"] = [round(depth, 1) for depth in columns["depth"]]
    for name in _TEXTS:
        columns[name] = [text if isinstance(text, str) else None for text in columns[name]]
    columns["where"] = [
        f"{length:,} tokens, {depth:.0f} % deep"
        for length, depth in zip(columns["length"], columns["depth"], strict=True)
    ]
    graded = zip(columns["needle_id"], columns["kind"], columns["success"], strict=True)
    columns["about"] = [
        ", ".join(filter(None, (f"needle {needle}", kind, f"grade {grade:.3g}" if asks else None)))
        for needle, kind, grade in graded
    ]
    return columns


def _details(
    per_case: Float[np.ndarray, "case layer query_head"],
    cells: Int[np.ndarray, " case"],
    shape: tuple[int, int],
    passed: Int[np.ndarray, " case"],
) -> dict[str, Any]:
    """Build every head's mean at each depth and length, and its strongest and weakest cases."""
    flat = per_case.reshape(len(per_case), -1).astype(np.float64)
    sums = np.zeros((shape[0] * shape[1], flat.shape[1]))
    np.add.at(sums, cells, flat)
    counts = np.bincount(cells, minlength=len(sums))
    means = np.full_like(sums, np.nan)
    np.divide(sums, counts[:, None], out=means, where=counts[:, None] > 0)
    code, low, high = _coded(means.T)
    heads = per_case.shape[1:]
    kept = min(EXTREMES, len(flat))
    order = np.argsort(-flat, axis=0, kind="stable")
    ends = np.concatenate([order[:kept], order[::-1][:kept]])
    values = np.take_along_axis(flat, ends, axis=0)
    least, most = float(values.min()), float(values.max())
    levels = np.rint((values - least) / ((most - least) or 1.0) * 65535).astype(np.uint16)
    return {
        "grid": pack(code.reshape(*heads, *shape)),
        "low": rounded(low.reshape(heads)),
        "high": rounded(high.reshape(heads)),
        "extremes": pack(passed[ends].T.reshape(*heads, 2, kept).astype(np.uint16)),
        "values": pack(levels.T.reshape(*heads, 2, kept)),
        "values_low": least,
        "values_high": most,
    }


def _coded(
    means: Float[np.ndarray, "head cell"],
) -> tuple[UInt8[np.ndarray, "head cell"], Float[np.ndarray, " head"], Float[np.ndarray, " head"]]:
    """Code each head's cells by 1 to 255 between its lowest and its highest; 0 has no case."""
    low, high = np.nanmin(means, axis=1), np.nanmax(means, axis=1)
    spread = np.where(high > low, high - low, 1.0)
    levels = 1 + np.rint((means - low[:, None]) / spread[:, None] * _LEVELS)
    code: np.ndarray = np.where(np.isnan(means), _EMPTY, levels)
    return code.astype(np.uint8), low, high

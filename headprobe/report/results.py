"""The parts of a report's record that tell of evaluations, ablations and how rankings agree."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from headprobe.models.layout import model_name
from headprobe.report.packing import brief, versions
from headprobe.scores import HeadScores
from headprobe.scores.titles import method_title
from headprobe.stats.ranks import rank_correlation, top_overlap, usual_top

_POINT = (
    "setting",
    "strategy",
    "selection",
    "budget",
    "is_baseline",
    "fraction",
    "of_full",
    "best_baseline",
)
_MOST_RANKINGS = 24


def evaluation_record(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Build what is told of an evaluation: a point a setting, strategy and budget."""
    plan, metric = fields["plan"], fields["metric"]
    model = plan.get("layout") or {"id": plan.get("model")}
    points = [
        {key: point.get(key) for key in _POINT}
        | {**point["grades"][metric], "gain": point["gain"], "name": _name(point)}
        for point in fields["results"]
    ]
    return {
        "name": name,
        "model": _named(model),
        "asked": plan.get("task") or plan.get("benchmark") or plan.get("questions"),
        "context": max(plan.get("lengths") or [0]) or None,
        "questions": fields.get("questions"),
        "metric": metric,
        "points": points,
        "facts": _facts(model, fields),
    }


def _name(point: Mapping[str, Any]) -> str:
    strategy, selection = point["strategy"], point.get("selection")
    return method_title(strategy, selection, is_baseline=point["is_baseline"])


def ablation_record(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Build what is told of an ablation: its curves, as its file has them."""
    plan = fields.get("plan") or {}
    return {
        "name": name,
        "ablation": plan.get("ablation"),
        "facts": _facts(fields["model"], fields),
        "model": _named(fields["model"]),
        **{key: fields.get(key) for key in ("task", "metric", "cases", "accuracy", "curves")},
    }


def _facts(model: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **brief(fields.get("plan") or {}),
        "model": str(model["id"]),
        "started": str(fields.get("started")),
        "versions": versions(fields.get("versions")),
    }


def _named(model: Mapping[str, Any]) -> dict[str, Any]:
    return {**model, "name": model_name(str(model["id"]))}


def agreements(runs: Sequence[HeadScores]) -> list[dict[str, Any]]:
    """Compare all measures of all runs that rank the same heads, pair by pair.

    A ranking is named by the indices of its run and its measure.
    """
    rankings = [
        ((i, j), run.layout, run.mean(measure).ravel())
        for i, run in enumerate(runs)
        for j, measure in enumerate(run.measures)
    ][:_MOST_RANKINGS]
    pairs = [
        (one, other, first[None], second[None])
        for (one, layout, first), (other, its, second) in itertools.combinations(rankings, 2)
        if (layout.layers, layout.num_heads) == (its.layers, its.num_heads)
    ]
    return [
        {
            "one": one,
            "other": other,
            "rank_correlation": (
                correlation := round(float(rank_correlation(first, second)[0]), 4)
            ),
            "k": (k := usual_top(first.shape[1])),
            "overlap": (overlap := round(float(top_overlap(first, second, k)[0]), 4)),
            "told": f"Rank correlation {correlation:.2f} (Spearman); the top {k} heads overlap by "
            f"{100 * overlap:.0f} %.",
        }
        for one, other, first, second in pairs
    ]

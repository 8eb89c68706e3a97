"""The charts of evaluations and ablations: lines on a logarithmic axis, and their words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
from jaxtyping import Float

from headprobe.evaluation.settings import SETTINGS
from headprobe.models.layout import SIZES
from headprobe.report.packing import counted

_CONTEXT = 32_768
_TICKS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_MOST_MEASURES = 7
_COLOURS = 12


def evaluation_charts(
    evaluation: Mapping[str, Any], budgets: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Build a chart a setting: accuracy by the fraction of the cache that is kept.

    ``places`` holds for each of the report's ``budgets`` where it stands, or null for a model with
    other heads.
    """
    return [
        _setting_chart(evaluation, setting, points, budgets)
        for setting in SETTINGS
        if (points := [point for point in evaluation["points"] if point["setting"] == setting])
    ]


def _setting_chart(
    evaluation: Mapping[str, Any],
    setting: str,
    points: Sequence[Mapping[str, Any]],
    budgets: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    model, context = evaluation["model"], evaluation["context"] or _CONTEXT
    full = next((point["value"] for point in points if point["strategy"] == "full"), None)
    lines = _lines(points)
    places = [
        _place(budget, context, lines, full)
        if all(budget["model"][size] == model.get(size) for size in SIZES)
        else None
        for budget in budgets
    ]
    reach = [point["x"] for line in lines for point in line["points"]]
    reach += [place["x"] for place in places if place]
    low, high = min(reach, default=0.1) / 1.25, max(reach, default=1.0) * 1.25
    at = f" at {evaluation['context']:,} tokens" if evaluation["context"] else ""
    return {
        "title": f"{model['name']}, {evaluation['asked']}: {_words(evaluation['metric'])}",
        "note": f"{SETTINGS[setting]}; {counted(evaluation['questions'] or 0, 'question')}{at}",
        "unit": "KV cache kept (%)",
        "low": low,
        "high": high,
        "ticks": [(tick, f"{100 * tick:g}") for tick in _TICKS if low <= tick <= high],
        "full": full,
        "full_name": "full cache",
        "lines": lines,
        "places": places,
    }


def _lines(points: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Build a line a strategy, baselines last."""

    def line(point: Mapping[str, Any]) -> tuple[bool, str]:
        return bool(point["is_baseline"]), str(point["name"])

    measured = [point for point in points if point["strategy"] != "full"]
    return [
        {
            "name": name,
            "look": _look(i, dashed=is_baseline),
            "points": [
                _point(point["fraction"], str(point["budget"]), point)
                for point in sorted(group, key=lambda point: float(point["fraction"]))
            ],
        }
        for i, ((is_baseline, name), group) in enumerate(
            groupby(sorted(measured, key=line), key=line)
        )
    ]


def _place(
    budget: Mapping[str, Any],
    context: int,
    lines: Sequence[Mapping[str, Any]],
    full: float | None,
) -> dict[str, Any]:
    """Find where a budget stands: its fraction, and what its strategy's line says of that."""
    kept = np.maximum(budget["tokens"], np.ceil(np.array(budget["ratio"] or 0.0) * context))
    fraction = float(kept.clip(max=context).mean() / context)
    name = budget["strategy"]["name"]
    points: list[Mapping[str, float]] = next(
        (line["points"] for line in lines if line["name"] == name), []
    )
    value = _between(
        np.array([point["x"] for point in points], dtype=np.float64),
        np.array([point["value"] for point in points], dtype=np.float64),
        fraction,
    )
    measured = (
        f": about {value:.1f} by the measured {name}"
        if value is not None
        else f", where {name} was not measured"
    )
    beside = f", {full:.1f} with the full cache" if full is not None else ""
    return {
        "x": fraction,
        "value": value,
        "text": f"{budget['label']} keeps {100 * fraction:.2f} % of {context:,} tokens{measured}"
        f"{beside}.",
    }


def _between(
    fractions: Float[np.ndarray, " point"], values: Float[np.ndarray, " point"], at: float
) -> float | None:
    """Interpolate on the logarithmic axis; nothing is said beyond the ends of what was measured."""
    if not fractions.size or not fractions[0] / 1.02 < at < fractions[-1] * 1.000001:
        return None
    return float(np.interp(np.log(at), np.log(fractions), values))


def ablation_chart(ablation: Mapping[str, Any]) -> dict[str, Any]:
    """Build the chart of an ablation: accuracy by the number of heads ablated, random ones last."""
    curves = ablation["curves"]
    lines = [(curve["measure"], "top", curve) for curve in curves[:_MOST_MEASURES]]
    accuracy = ablation["accuracy"]["value"]
    return {
        "title": f"{ablation['model']['name']}, {ablation['task']}: heads ablated",
        "note": f"{_words(ablation['metric'])} with the top heads of a measure ablated by "
        f"{ablation['ablation']}; {counted(ablation['cases'] or 0, 'case')}",
        "unit": "heads ablated",
        "low": 1,
        "high": 1 + max(k for curve in curves for k in curve["top_k"]),
        "ticks": [(1 + k, str(k)) for k in curves[0]["top_k"]],
        "full": accuracy,
        "full_name": f"none ablated, {accuracy:.1f}",
        "lines": [
            {
                "name": name,
                "look": _look(i, dashed=which == "random"),
                "points": [
                    _point(1 + k, counted(k, "head"), point)
                    for k, point in zip(curve["top_k"], curve[which], strict=True)
                ],
            }
            for i, (name, which, curve) in enumerate(
                [*lines, ("random heads", "random", curves[0])]
            )
        ],
        "places": [],
    }


def _look(place: int, *, dashed: bool) -> str:
    """Return the classes of a line, by which the page's style draws it."""
    return f"c{place % _COLOURS}{' dashed' if dashed else ''}"


def _words(metric: Any) -> str:
    return str(metric).replace("_", " ")


def _point(x: float | int, label: str, grade: Mapping[str, Any]) -> dict[str, Any]:
    value, low, high = (grade[key] for key in ("value", "ci_low", "ci_high"))
    told = f"{label}: {value:.1f} ({low:.1f} to {high:.1f})"
    return {"x": x, "value": value, "ci_low": low, "ci_high": high, "told": told}

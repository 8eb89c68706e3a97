"""The part of a report's record that tells of budgets: given ones, and sizes of a run's scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headprobe.allocators import STRATEGIES, parse_budget
from headprobe.allocators.mixing import WeightedRun, allocate_runs
from headprobe.budgets import CONTEXTS, HeadBudgets
from headprobe.errors import HeadprobeError
from headprobe.models.layout import HeadLayout
from headprobe.report.packing import rounded
from headprobe.report.sources import Sources
from headprobe.runs.hub import shown_name
from headprobe.runs.memory import byte_size
from headprobe.runs.titles import sources_facts
from headprobe.scores import HeadScores

_SIZES = (16, 32, 64, 128, 256, 512, 1024, 2048)


def budget_record(name: str | None, budgets: HeadBudgets) -> dict[str, Any]:
    """Build what is told of a budget; one without a ``name`` was divided for the report."""
    streaming = budgets.selection == "streaming"
    by_kv = budgets.granularity == "kv"
    strategy = {
        option: value
        for option, value in budgets.strategy.items()
        if isinstance(value, str | int | float)
    }
    return {
        "name": name,
        "label": _label(budgets.strategy),
        "model": budgets.layout.to_json() | {"name": budgets.layout.name},
        "strategy": strategy,
        "column": "KV head" if by_kv else "query head",
        "column_heads": budgets.layout.group_size if by_kv else 1,
        "facts": {
            **({"file": name} if name else {}),
            "scores": "; ".join(map(", ".join, sources_facts(budgets.strategy))) or "not recorded",
            "strategy": budgets.strategy["name"],
            **{name: value for name, value in strategy.items() if name != "name"},
            "window": budgets.window,
            "sinks": budgets.sinks,
            "compensation": budgets.compensation,
        },
        "tokens": budgets.tokens.tolist(),
        "ratio": rounded(budgets.ratio, 6) if budgets.ratio.any() else None,
        "streaming": streaming.astype(int).tolist() if streaming.any() else None,
        "kept": [
            vars(kept) | {"size": byte_size(kept.bytes), "percent": f"{100 * kept.fraction:.2f} %"}
            for kept in map(budgets.footprint, CONTEXTS)
        ],
    }


def _label(strategy: Mapping[str, Any]) -> str:
    """Name a strategy with its size, or what it has in place of one."""
    words = {"budget": "", "sparsity": "sparsity ", "top_k": "top "}
    sizes = [f"{word}{strategy[name]}" for name, word in words.items() if name in strategy]
    return " ".join([strategy["name"], *sizes[:1]])


def all_budgets(sources: Sources) -> list[dict[str, Any]]:
    """Build what is told of all budgets, smallest first: given ones, then sizes of the runs'."""
    given = [budget_record(str(path), budgets) for path, budgets in sources.budgets.items()]
    labels = {(one["model"]["id"], one["label"]) for one in given}
    first: dict[HeadLayout, tuple[Path, HeadScores]] = {}
    for path, scores in sources.runs.items():
        first.setdefault(scores.layout, (path, scores))
    more = [one for path, scores in first.values() for one in divided(shown_name(path), scores)]
    told = given + [one for one in more if (one["model"]["id"], one["label"]) not in labels]
    return sorted(told, key=lambda one: int(one["kept"][1]["tokens"]))


def divided(name: str, scores: HeadScores) -> list[dict[str, Any]]:
    """Divide budgets of several sizes by the scores of the run ``name``, for the slider.

    The list is empty where the task's scores feed a strategy of their own, and where they cannot be
    divided by.
    """
    if scores.task in STRATEGIES:
        return []
    run = WeightedRun(name=name, scores=scores)
    try:
        return [
            budget_record(None, allocate_runs([run], budget=parse_budget(str(size))))
            for size in _SIZES
        ]
    except HeadprobeError:
        return []

"""The part of a report's record that tells of budgets: given ones, and sizes of a run's scores."""

from __future__ import annotations

from typing import Any

from headprobe.allocators import STRATEGIES, allocate, parse_budget
from headprobe.budgets import HeadBudgets
from headprobe.errors import HeadprobeError
from headprobe.report.packing import rounded
from headprobe.scores import HeadScores

CONTEXTS = (4096, 32_768, 131_072)
_SIZES = (16, 32, 64, 128, 256, 512, 1024, 2048)


def budget_record(name: str | None, budgets: HeadBudgets) -> dict[str, Any]:
    """Build what is told of a budget; one without a ``name`` was divided for the report."""
    streaming = budgets.selection == "streaming"
    return {
        "name": name,
        "model": budgets.layout.to_json(),
        "strategy": {
            option: value
            for option, value in budgets.strategy.items()
            if isinstance(value, str | int | float)
        },
        "granularity": budgets.granularity,
        "window": budgets.window,
        "sinks": budgets.sinks,
        "compensation": budgets.compensation,
        "tokens": budgets.tokens.tolist(),
        "ratio": rounded(budgets.ratio, 6) if budgets.ratio.any() else None,
        "streaming": streaming.astype(int).tolist() if streaming.any() else None,
        "kept": [vars(budgets.footprint(length)) for length in CONTEXTS],
    }


def divided(scores: HeadScores) -> list[dict[str, Any]]:
    """Divide budgets of several sizes by a run's scores, for the slider to move over.

    The list is empty where the task's scores feed a strategy of their own, and where they cannot be
    divided by.
    """
    if scores.task in STRATEGIES:
        return []
    mean = scores.mean(scores.measures[0])
    try:
        return [
            budget_record(None, allocate(mean, scores.layout, budget=parse_budget(str(size))))
            for size in _SIZES
        ]
    except HeadprobeError:
        return []

"""Allocate a budget from the scores of one run, or of several runs mixed by weight."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from headprobe.allocators import allocate, get_strategy
from headprobe.budgets import HeadBudgets
from headprobe.errors import HeadprobeError, UsageError
from headprobe.models.layout import MODEL_FIELDS, check_same_heads
from headprobe.scores import HeadScores
from headprobe.scores.utility import UtilityCurves


@dataclass(frozen=True, eq=False, kw_only=True)
class WeightedRun:
    """A run whose scores go into a budget, and its weight among the runs.

    ``name`` is what messages and the budget call it; of ``weight``, above 0, only its fraction of
    all runs' weights matters.
    """

    name: str
    scores: HeadScores
    weight: float = 1.0


def parse_weighted(text: str) -> tuple[Path, float]:
    """Read ``outputs/nano/r2:0.7``: a run and its weight, 1 where none is given.

    A colon that no number follows belongs to the path, as does one in the path of a run that is
    there: ``C:\\runs\\r2`` is a path.

    Raises:
        UsageError: the weight is not above 0.
    """
    path, colon, number = text.rpartition(":")
    try:
        weight = float(number)
    except ValueError:
        return Path(text), 1.0
    if not colon or not path or Path(text).exists():
        return Path(text), 1.0
    if not 0 < weight < math.inf:
        raise UsageError("the weight must be above 0", option="scores", value=text)
    return Path(path), weight


def allocate_runs(
    runs: Sequence[WeightedRun],
    *,
    strategy: str = "headkv",
    measure: str | None = None,
    **options: Any,
) -> HeadBudgets:
    """Allocate a budget from the scores of one run, or of several runs mixed by weight.

    Several runs are mixed: each run's scores are divided by their sum over all heads, multiplied by
    the run's fraction of the weights, and added up. ``measure`` is taken of every run, each task's
    own for ``None``. The budget's strategy records under ``scores`` what went in.

    Raises:
        UsageError: the runs are of different models, one lacks a measure, the strategy reads others
            than ``measure``, or it compares scores in their own unit and there are several runs.
        HeadprobeError: scores cannot be used.
    """
    if len(runs) > 1 and get_strategy(strategy).in_own_unit:
        raise UsageError(
            f"strategy {strategy} compares scores in their own unit, which a mixture of runs has "
            "not; give one run, or use `strategy=duo` or `strategy=top`"
        )
    first, *others = runs
    for other in others:
        check_same_heads(
            first.scores.layout,
            other.scores.layout,
            names=(first.name, other.name),
            fields=MODEL_FIELDS,
        )
    taken = [_measures(run, strategy, measure) for run in runs]
    mixed = [_mix(runs, measures) for measures in zip(*taken, strict=True)]
    budgets = allocate(
        mixed[0],
        runs[0].scores.layout,
        strategy=strategy,
        measured=dict(zip(taken[0], mixed, strict=True)),
        curves=_mix_curves(runs) if get_strategy(strategy).reads_curves else None,
        **options,
    )
    return replace(budgets, strategy={**budgets.strategy, "scores": _record(runs, taken)})


def _measures(run: WeightedRun, strategy: str, measure: str | None) -> tuple[str, ...]:
    """Choose the measures of a run that the strategy takes."""
    read = get_strategy(strategy).reads
    if not read:
        try:
            return (run.scores.resolve(measure),)
        except UsageError as error:
            message = f"of {run.name}: {error.message}"
            raise UsageError(message, option=error.option, value=error.value) from None
    if measure is not None:
        message = f"strategy {strategy} reads {' and '.join(read)}: leave it out"
        raise UsageError(message, option="measure", value=measure)
    for name in read:
        if name not in run.scores.measures:
            raise UsageError(
                f"strategy {strategy} reads the measure {name!r}, and {run.name} holds "
                f"{', '.join(run.scores.measures)}; score the model with the task of that measure: "
                "see `headprobe list measures`"
            )
    return read


def _mix(
    runs: Sequence[WeightedRun], measures: Sequence[str]
) -> Float[np.ndarray, "layer query_head"]:
    """Mix one measure of each run by weight; return a single run's scores as they are."""
    if len(runs) == 1:
        return runs[0].scores.mean(measures[0])
    total = sum(run.weight for run in runs)
    parts = zip(runs, measures, strict=True)
    mixed: Float[np.ndarray, "layer query_head"] = np.sum(
        [run.weight / total * _fractions(run, measure) for run, measure in parts], axis=0
    )
    return mixed


def _mix_curves(runs: Sequence[WeightedRun]) -> UtilityCurves:
    """Mix the utility curves of each run by weight."""
    for run in runs:
        if run.scores.utility is None:
            raise UsageError(
                f"strategy utility reads the utility of entries, which {run.name} does not hold; "
                "give the same score command again with `utility`"
            )
    held = [(run.weight, run.scores.utility) for run in runs if run.scores.utility]
    return UtilityCurves.mix(held)


def _fractions(run: WeightedRun, measure: str) -> Float[np.ndarray, "layer query_head"]:
    """Divide a run's scores by their sum, in float64."""
    scores = run.scores.mean(measure).astype(np.float64)
    if (scores < 0).any() or not scores.any():
        problem = "some are negative" if scores.any() else "all are zero"
        raise HeadprobeError(
            f"the {measure} scores of {run.name} cannot be mixed with others: {problem}; "
            "leave that run out, or give another `measure`"
        )
    fractions: Float[np.ndarray, "layer query_head"] = scores / scores.sum()
    return fractions


def _record(runs: Sequence[WeightedRun], taken: Sequence[Sequence[str]]) -> list[Mapping[str, Any]]:
    total = sum(run.weight for run in runs)
    return [
        {
            "run": run.name,
            "task": run.scores.task,
            "measures": list(measures),
            "weight": run.weight / total,
            "cases": run.scores.cases,
            "passed": run.scores.passed,
            "prompt": run.scores.plan.get("prompt_style"),
        }
        for run, measures in zip(runs, taken, strict=True)
    ]

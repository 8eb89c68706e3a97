"""The results of an evaluation: graded answers, means with intervals, gains over baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from headprobe.evaluation.baselines import is_like_baseline
from headprobe.scores.titles import method_title
from headprobe.stats.bootstrap import Estimate, interval
from headprobe.tasks.grading import METRICS

if TYPE_CHECKING:
    import pandas as pd

FULL = "full"
RESULTS, REPORT, ANSWERS, PICTURE = (
    "results.csv",
    "evaluation.json",
    "answers.parquet",
    "accuracy.png",
)


@dataclass(frozen=True, eq=False, kw_only=True)
class MethodAnswers:
    """The answers under one budget in one setting, in the order of the questions.

    ``fractions`` are the fractions of the cache that were kept, 0 to 1, as measured at the
    compression. ``grades`` are in per cent, by metric. The full cache has the strategy ``FULL``,
    and no ``selection``.
    """

    setting: str
    strategy: str
    selection: str | None
    budget: str
    is_baseline: bool
    fractions: Float[np.ndarray, " question"]
    responses: tuple[str, ...]
    grades: Mapping[str, Float[np.ndarray, " question"]]

    @property
    def name(self) -> str:
        """The strategy, and the selection where it is not attention or the baseline's own."""
        return method_title(self.strategy, self.selection, is_baseline=self.is_baseline)


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """The accuracy of one method in one setting.

    ``fraction`` is the mean fraction of the cache that was kept, 0 to 1. ``grades`` are means in
    per cent by metric, with intervals over groups of questions. Methods are compared by ``metric``:
    ``of_full`` is its mean over that of the full cache, and ``gain`` its difference, answer by
    answer, to ``best_baseline``, the best other baseline of the same budget and setting. Baselines
    have none, unless they are candidates.
    """

    setting: str
    strategy: str
    selection: str | None
    budget: str
    is_baseline: bool
    fraction: float
    metric: str
    grades: Mapping[str, Estimate]
    of_full: float | None
    best_baseline: str | None
    gain: Estimate | None

    @property
    def name(self) -> str:
        """The strategy, and the selection where it is not attention or the baseline's own."""
        return method_title(self.strategy, self.selection, is_baseline=self.is_baseline)


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """The answers of all methods to some questions; questions of one of ``groups`` are alike."""

    questions: tuple[int, ...]
    groups: tuple[int, ...]
    methods: tuple[MethodAnswers, ...]

    def __post_init__(self) -> None:
        for method in self.methods:
            sizes = {len(values) for values in (method.fractions, *method.grades.values())}
            if sizes | {len(method.responses), len(self.groups)} != {len(self.questions)}:
                raise ValueError(
                    f"expected {len(self.questions)} answers of {method.strategy}, got {sizes}"
                )

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that all answers are graded by."""
        return tuple(self.methods[0].grades)

    def results(self, *, metric: str = "f1", seed: int = 0) -> list[MethodResult]:
        """Compute means and intervals of all methods, compared by one metric.

        The same seed gives the same intervals. The interval of a gain is that of a paired
        bootstrap: questions are resampled, each with both answers.

        Raises:
            ValueError: the answers are not graded by that metric.
        """
        if metric not in self.metrics:
            raise ValueError(f"expected one of {', '.join(self.metrics)}, got {metric!r}")
        return [self._result(method, metric, seed) for method in self.methods]

    def _result(self, method: MethodAnswers, metric: str, seed: int) -> MethodResult:
        own = method.grades[metric]
        full = self._full(method).grades[metric].mean()
        best_baseline = self._best_baseline(method, metric)
        return MethodResult(
            setting=method.setting,
            strategy=method.strategy,
            selection=method.selection,
            budget=method.budget,
            is_baseline=method.is_baseline,
            fraction=float(method.fractions.mean()),
            metric=metric,
            grades={
                name: interval(grades, self.groups, seed=seed)
                for name, grades in method.grades.items()
            },
            of_full=float(own.mean() / full) if full else None,
            best_baseline=best_baseline.name if best_baseline else None,
            gain=interval(own - best_baseline.grades[metric], self.groups, seed=seed)
            if best_baseline
            else None,
        )

    def _full(self, method: MethodAnswers) -> MethodAnswers:
        return next(
            one for one in self.methods if (one.strategy, one.setting) == (FULL, method.setting)
        )

    def _best_baseline(self, method: MethodAnswers, metric: str) -> MethodAnswers | None:
        """Find the best other baseline of the same budget and setting, a candidate or not."""
        if method.is_baseline or method is self._full(method):
            return None
        others = [
            one
            for one in self.methods
            if one is not method
            and is_like_baseline(one.strategy, one.selection)
            and (one.setting, one.budget) == (method.setting, method.budget)
        ]
        return max(others, key=lambda one: one.grades[metric].mean(), default=None)

    def answer_table(self) -> pd.DataFrame:
        """Build a table with a row for every answer: its budget, what was said, and its grades."""
        import pandas as pd

        tables = [
            pd.DataFrame(
                {
                    "setting": method.setting,
                    "strategy": method.strategy,
                    "selection": method.selection,
                    "budget": method.budget,
                    "question_id": self.questions,
                    "group": self.groups,
                    "fraction": method.fractions,
                    "response": method.responses,
                    **method.grades,
                }
            )
            for method in self.methods
        ]
        return pd.concat(tables, ignore_index=True)


def grade(response: str, answers: Sequence[str]) -> dict[str, float]:
    """Grade a response by every metric, in per cent."""
    return {name: metric(response, answers) for name, metric in METRICS.items()}


def result_table(results: Sequence[MethodResult]) -> pd.DataFrame:
    """Build a table with a row for every result."""
    import pandas as pd

    return pd.DataFrame(map(_flat, results))


def _flat(result: MethodResult) -> dict[str, Any]:
    """Return a result as a row of ``results.csv``, with the grade that methods are compared by."""
    grade, gain = result.grades[result.metric], result.gain
    return {
        "setting": result.setting,
        "strategy": result.strategy,
        "selection": result.selection,
        "budget": result.budget,
        "fraction": result.fraction,
        "metric": result.metric,
        "value": grade.value,
        "ci_low": grade.ci_low,
        "ci_high": grade.ci_high,
        "gain": gain and gain.value,
        "gain_low": gain and gain.ci_low,
        "gain_high": gain and gain.ci_high,
        "best_baseline": result.best_baseline,
    }

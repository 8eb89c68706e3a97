"""What an evaluation found: every answer graded, means with intervals, and who is ahead of whom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from headprobe.evaluation.baselines import BASELINES
from headprobe.stats.bootstrap import Estimate, interval
from headprobe.tasks.grading import METRICS

if TYPE_CHECKING:
    import pandas as pd

KNOWN, UNSEEN = "known", "unseen"
SETTINGS = {
    KNOWN: "the question is known when the cache is cut",
    UNSEEN: "the context is cut before the question is seen",
}
FULL = "full"
RESULTS, REPORT, ANSWERS, PICTURE = (
    "results.csv",
    "evaluation.json",
    "answers.parquet",
    "accuracy.png",
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Trial:
    """The answers under one budget in one setting, in the order of the questions.

    ``shares`` are the parts of the cache that were kept, 0 to 1, as measured at the cut. ``grades``
    are in per cent, by metric. A full cache is the trial of strategy ``FULL``.
    """

    setting: str
    strategy: str
    budget: str
    is_baseline: bool
    shares: Float[np.ndarray, " question"]
    responses: tuple[str, ...]
    grades: Mapping[str, Float[np.ndarray, " question"]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a trial comes to.

    ``share`` is the mean part of the cache that was kept, 0 to 1. ``grades`` are means in per cent
    by metric, with intervals over groups of questions. Of the metric that strategies are compared
    by, ``of_full`` is the part of the full cache's mean, and ``lead`` what the trial is ahead of
    its ``rival``, the best (other) baseline of the same budget and setting, answer by answer;
    baselines have none, unless they were entered.
    """

    setting: str
    strategy: str
    budget: str
    is_baseline: bool
    share: float
    grades: Mapping[str, Estimate]
    of_full: float | None
    rival: str | None
    lead: Estimate | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """The trials of some questions; ``groups`` names for each question those that it is like."""

    questions: tuple[int, ...]
    groups: tuple[int, ...]
    trials: tuple[Trial, ...]

    def __post_init__(self) -> None:
        for trial in self.trials:
            sizes = {len(values) for values in (trial.shares, *trial.grades.values())}
            if sizes | {len(trial.responses), len(self.groups)} != {len(self.questions)}:
                raise ValueError(
                    f"expected {len(self.questions)} answers of {trial.strategy}, got {sizes}"
                )

    @property
    def metrics(self) -> tuple[str, ...]:
        """What all answers are graded by."""
        return tuple(self.trials[0].grades)

    def outcomes(self, *, metric: str = "f1", seed: int = 0) -> list[Outcome]:
        """Means and intervals of all trials, compared by one metric; the same seed, the same.

        A lead's interval is that of a paired bootstrap: questions are resampled, each with both
        answers.

        Raises:
            ValueError: the answers are not graded by that metric.
        """
        if metric not in self.metrics:
            raise ValueError(f"expected one of {', '.join(self.metrics)}, got {metric!r}")
        return [self._outcome(trial, metric, seed) for trial in self.trials]

    def _outcome(self, trial: Trial, metric: str, seed: int) -> Outcome:
        own = trial.grades[metric]
        full = self._full(trial).grades[metric].mean()
        rival = self._rival(trial, metric)
        return Outcome(
            setting=trial.setting,
            strategy=trial.strategy,
            budget=trial.budget,
            is_baseline=trial.is_baseline,
            share=float(trial.shares.mean()),
            grades={
                name: interval(grades, self.groups, seed=seed)
                for name, grades in trial.grades.items()
            },
            of_full=float(own.mean() / full) if full else None,
            rival=rival.strategy if rival else None,
            lead=interval(own - rival.grades[metric], self.groups, seed=seed) if rival else None,
        )

    def _full(self, trial: Trial) -> Trial:
        return next(
            one for one in self.trials if (one.strategy, one.setting) == (FULL, trial.setting)
        )

    def _rival(self, trial: Trial, metric: str) -> Trial | None:
        """The best other baseline of the same budget and setting, entered or not."""
        if trial.is_baseline or trial is self._full(trial):
            return None
        others = [
            one
            for one in self.trials
            if one is not trial
            and one.strategy in BASELINES
            and (one.setting, one.budget) == (trial.setting, trial.budget)
        ]
        return max(others, key=lambda one: one.grades[metric].mean(), default=None)

    def answer_table(self) -> pd.DataFrame:
        """A row for every answer: under which budget, what was said, and how it was graded."""
        import pandas as pd

        tables = [
            pd.DataFrame(
                {
                    "setting": trial.setting,
                    "strategy": trial.strategy,
                    "budget": trial.budget,
                    "question_id": self.questions,
                    "group": self.groups,
                    "share": trial.shares,
                    "response": trial.responses,
                    **trial.grades,
                }
            )
            for trial in self.trials
        ]
        return pd.concat(tables, ignore_index=True)


def grade(response: str, answers: Sequence[str]) -> dict[str, float]:
    """A response by every metric, in per cent."""
    return {name: metric(response, answers) for name, metric in METRICS.items()}


def outcome_table(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """A row for every outcome."""
    import pandas as pd

    return pd.DataFrame(map(_flat, outcomes))


def _flat(outcome: Outcome) -> dict[str, Any]:
    """An outcome as one row of numbers."""
    row = asdict(outcome)
    lead = row.pop("lead") or dict.fromkeys(("value", "ci_low", "ci_high"))
    for name, estimate in [*row.pop("grades").items(), ("lead", lead)]:
        row |= {name: estimate["value"]}
        row |= {f"{name}_{end}": estimate[end] for end in ("ci_low", "ci_high")}
    return row

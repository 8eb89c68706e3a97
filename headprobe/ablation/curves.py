"""Curves of accuracy against the number of ablated heads, and the areas that rank measures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from headprobe.ablation.rankings import Trial
from headprobe.models.layout import HeadLayout
from headprobe.stats.bootstrap import RESAMPLES, Estimate, estimate, resampled_means

if TYPE_CHECKING:
    import pandas as pd


CHOICES = ("top", "random", "bottom")


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Accuracy in per cent against the number of heads ablated, in the order of ``top_k``.

    ``random`` is the mean over the draws. ``area`` is the area between ``random`` and ``top``: see
    ``area_between``.
    """

    measure: str
    top_k: tuple[int, ...]
    top: tuple[Estimate, ...]
    random: tuple[Estimate, ...]
    bottom: tuple[Estimate, ...]
    area: Estimate


@dataclass(frozen=True, eq=False, kw_only=True)
class Ablation:
    """The grades of a model's answers while heads are ablated, and as it is.

    ``full`` are the grades, 0 to 100, of the model as it is, ``grades`` the grades of each trial;
    ``needles`` names each case's needle. ``plan`` holds every option that changes the numbers.
    """

    layout: HeadLayout
    task: str
    metric: str
    needles: tuple[int, ...]
    full: Float[np.ndarray, " case"]
    trials: tuple[Trial, ...]
    grades: Float[np.ndarray, "trial case"]
    plan: Mapping[str, Any]
    seed: int

    def __post_init__(self) -> None:
        shape = len(self.trials), len(self.needles)
        if self.grades.shape != shape or self.full.shape != shape[1:]:
            raise ValueError(
                f"expected grades of shape {shape}, got {self.grades.shape} and {self.full.shape}"
            )

    @property
    def accuracy(self) -> Estimate:
        """The accuracy of the model with no head ablated."""
        return _estimate(self._means()[:, 0])

    @property
    def random_draws(self) -> int:
        """The number of draws of random heads."""
        return 1 + max(trial.draw for trial in self.trials if trial.draw is not None)

    def curves(self) -> tuple[Curve, ...]:
        """Build a curve for each measure, the largest area first.

        Intervals are a percentile bootstrap over needles; the intervals of random heads resample
        the draws too. All curves get the same resamples.
        """
        means = self._means()
        # A random stream of its own: the seed's own stream draws the needles.
        draw = np.random.default_rng((self.seed, 1))
        times = draw.multinomial(
            self.random_draws, np.full(self.random_draws, 1 / self.random_draws), size=RESAMPLES
        )
        weights = np.vstack([np.ones(self.random_draws), times]) / self.random_draws
        measures = dict.fromkeys(trial.measure for trial in self.trials)
        curves = [self._curve(measure, means, weights) for measure in measures]
        return tuple(sorted(curves, key=lambda curve: -curve.area.value))

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``ablation.json``."""
        return {
            "model": self.layout.to_json(),
            "task": self.task,
            "metric": self.metric,
            "cases": len(self.needles),
            "accuracy": asdict(self.accuracy),
            "curves": [asdict(curve) for curve in self.curves()],
            "trials": [
                asdict(trial) | {"accuracy": float(grades.mean())}
                for trial, grades in zip(self.trials, self.grades, strict=True)
            ],
            "plan": dict(self.plan),
        }

    def table(self) -> pd.DataFrame:
        """Build a table with a row for every measure, choice of heads and number of heads."""
        import pandas as pd

        return pd.DataFrame(
            {
                "measure": curve.measure,
                "heads": choice,
                "k": k,
                "accuracy": point.value,
                "ci_low": point.ci_low,
                "ci_high": point.ci_high,
                "area": curve.area.value,
                "area_ci_low": curve.area.ci_low,
                "area_ci_high": curve.area.ci_high,
            }
            for curve in self.curves()
            for choice in CHOICES
            for k, point in zip(curve.top_k, getattr(curve, choice), strict=True)
        )

    def _means(self) -> Float[np.ndarray, "row column"]:
        """Average the grades over all cases, then over each resample, a row each.

        The first column is the model with no head ablated, the other columns are the trials.
        """
        grades = np.vstack([self.full, self.grades]).T
        resampled = resampled_means(grades, self.needles, seed=self.seed)
        return np.vstack([grades.mean(axis=0), resampled])

    def _curve(
        self,
        measure: str,
        means: Float[np.ndarray, "row column"],
        weights: Float[np.ndarray, "row draw"],
    ) -> Curve:
        top_k = tuple(sorted({trial.k for trial in self.trials}))

        def accuracy(choice: str) -> Float[np.ndarray, "row top draw"]:
            columns = [
                [
                    1 + i
                    for i, trial in enumerate(self.trials)
                    if (trial.measure, trial.choice, trial.k) == (measure, choice, k)
                ]
                for k in top_k
            ]
            found: np.ndarray = means[:, columns]
            return found

        top, bottom = (accuracy(choice)[..., 0] for choice in ("top", "bottom"))
        random = (accuracy("random") * weights[:, None]).sum(axis=2)
        return Curve(
            measure=measure,
            top_k=top_k,
            top=tuple(map(_estimate, top.T)),
            random=tuple(map(_estimate, random.T)),
            bottom=tuple(map(_estimate, bottom.T)),
            area=_estimate(area_between(top_k, random, top, full=means[:, 0])),
        )


def area_between(
    top_k: Sequence[int],
    random: Float[np.ndarray, "*row top"],
    top: Float[np.ndarray, "*row top"],
    *,
    full: Float[np.ndarray, "*row"],
) -> Float[np.ndarray, "*row"]:
    """Compute the area between two curves of accuracy as a fraction of the largest possible area.

    The curves go over log2(1 + k), so that each doubling of k counts about alike, from ``full`` at
    no head ablated on, straight between the ``top_k``. The area is 1 where the top heads, whatever
    their number, take every answer and the same number of random heads takes none; 0 where the top
    heads hurt as random heads do; below 0 where they hurt less.
    """
    heads = np.log2(1 + np.array([0, *top_k]))
    start = np.zeros((*np.shape(full), 1))
    lost = np.trapezoid(np.concatenate([start, random - top], axis=-1), heads)
    most = full * np.trapezoid([0.0, *np.ones(len(top_k))], heads)
    area: np.ndarray = np.divide(lost, most, out=np.zeros_like(lost), where=most > 0)
    return area


def _estimate(values: Float[np.ndarray, " row"]) -> Estimate:
    """Estimate the first value; the other values are its resamples."""
    return estimate(float(values[0]), values[1:])

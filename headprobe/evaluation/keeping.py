"""The smallest fraction of the cache that keeps so much of the full cache's accuracy.

Between the fractions that were evaluated, the full cache among them, accuracy is taken to be
linear. From the full cache down, the fraction is the first at which it falls below the target.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headprobe.evaluation.results import FULL, Evaluation, MethodAnswers
from headprobe.stats.bootstrap import Estimate, estimate, resampled_means


@dataclass(frozen=True, kw_only=True)
class KeptFraction:
    """The smallest fraction of the cache, 0 to 1, with which a strategy keeps what ``keep`` says.

    ``keep`` is the fraction of the full cache's mean by ``metric``, 0 to 1. The interval is that of
    a paired bootstrap: questions are resampled, each with its answers under every budget.
    ``is_bound`` says that the smallest fraction evaluated keeps it too: a smaller one may.
    """

    setting: str
    strategy: str
    selection: str | None
    is_baseline: bool
    metric: str
    keep: float
    fraction: Estimate
    is_bound: bool


def kept_fractions(
    found: Evaluation, *, keep: float, metric: str, seed: int = 0
) -> list[KeptFraction]:
    """Compute the smallest fraction for every setting, strategy and selection.

    A setting in which the full cache answers nothing right has none.
    """
    kept = []
    for setting in dict.fromkeys(one.setting for one in found.methods):
        own = [one for one in found.methods if one.setting == setting]
        full = next(one for one in own if one.strategy == FULL)
        if not full.grades[metric].any():
            continue
        for methods in _alike(own):
            kept.append(_kept(found, full, methods, keep=keep, metric=metric, seed=seed))
    return kept


def _alike(methods: list[MethodAnswers]) -> Iterator[list[MethodAnswers]]:
    """Yield the methods of each strategy and selection, from the least cache to the most."""
    names = dict.fromkeys(
        (one.strategy, one.selection, one.is_baseline) for one in methods if one.strategy != FULL
    )
    for name in names:
        alike = [one for one in methods if (one.strategy, one.selection, one.is_baseline) == name]
        yield sorted(alike, key=lambda one: float(one.fractions.mean()))


def _kept(
    found: Evaluation,
    full: MethodAnswers,
    methods: list[MethodAnswers],
    *,
    keep: float,
    metric: str,
    seed: int,
) -> KeptFraction:
    fractions = np.array([*(one.fractions.mean() for one in methods), 1.0])
    grades = np.stack([one.grades[metric] for one in (*methods, full)], axis=1)
    means = grades.mean(axis=0)
    resamples = resampled_means(grades, found.groups, seed=seed)
    crossed = np.array([crossing(fractions, one, keep=keep) for one in resamples])
    return KeptFraction(
        setting=full.setting,
        strategy=methods[0].strategy,
        selection=methods[0].selection,
        is_baseline=methods[0].is_baseline,
        metric=metric,
        keep=keep,
        fraction=estimate(crossing(fractions, means, keep=keep), crossed),
        is_bound=bool((means >= keep * means[-1]).all()),
    )


def crossing(
    fractions: Float[np.ndarray, " budget"], means: Float[np.ndarray, " budget"], *, keep: float
) -> float:
    """Find where accuracy falls below the target, going down from the full cache.

    >>> crossing(np.array([0.1, 0.5, 1.0]), np.array([0.0, 80.0, 100.0]), keep=0.9)
    0.75

    Args:
        fractions: ascending, 0 to 1; the full cache, 1, is last.
        means: the mean accuracy at each.
        keep: the fraction of the last mean to keep, 0 to 1.
    """
    target = keep * means[-1]
    below = np.flatnonzero(means < target)
    if not below.size:
        return float(fractions[0])
    low = int(below[-1])
    step = (target - means[low]) / (means[low + 1] - means[low])
    return float(fractions[low] + step * (fractions[low + 1] - fractions[low]))

"""Bootstrap intervals of means over cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number and its 95 % bootstrap interval."""

    value: float
    ci_low: float
    ci_high: float

    def text(self, decimals: int = 2, *, of_ends: int | None = None) -> str:
        """Write ``0.38 (0.31 to 0.43)``, the ends with other decimals if ``of_ends`` says so."""
        ends = decimals if of_ends is None else of_ends
        return f"{self.value:.{decimals}f} ({self.ci_low:.{ends}f} to {self.ci_high:.{ends}f})"


def estimate(value: float, resamples: Float[np.ndarray, " resample"]) -> Estimate:
    """Put a number beside the percentile interval of its resamples."""
    low, high = percentile_interval(resamples)
    return Estimate(value=value, ci_low=float(low), ci_high=float(high))


def percentile_interval(
    resamples: Float[np.ndarray, "resample ..."],
) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
    """Compute the ends of the 95 % percentile bootstrap interval (Efron 1979) of each value."""
    low, high = np.quantile(resamples, (0.025, 0.975), axis=0)
    return np.asarray(low), np.asarray(high)


def interval(
    values: Float[np.ndarray, " case"], groups: Sequence[int], *, seed: int = 0
) -> Estimate:
    """Estimate the mean over cases with its percentile bootstrap interval.

    ``groups`` names the group of each case; groups are resampled, since cases of one needle are
    alike. Values of the same cases under another condition get the same resamples by the same seed;
    the interval of the differences is a paired bootstrap's.
    """
    means = resampled_means(values[:, None], groups, seed=seed)
    return estimate(float(values.mean()), means[:, 0])


def resampled_means(
    values: Float[np.ndarray, "case value"], groups: Sequence[int], *, seed: int
) -> Float[np.ndarray, "resample value"]:
    """Average cases over groups that are drawn with replacement, the same number of groups.

    Where all cases are of one group, cases are drawn instead.
    """
    units = np.unique(groups, return_inverse=True)[1]
    if units.max() == 0:
        units = np.arange(len(values))
    count = units.max() + 1
    totals = np.zeros((count, values.shape[1]))
    np.add.at(totals, units, values)
    sizes = np.bincount(units)
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    means: Float[np.ndarray, "resample value"] = (draws @ totals) / (draws @ sizes)[:, None]
    return means

"""Estimate how far the ranking of the heads has settled: do halves of the needles agree on it?

Halves hold different needles, not different cases of the same ones: cases of one needle are alike,
and halves that share needles agree whatever another needle would say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from headprobe.stats.bootstrap import Estimate
from headprobe.stats.ranks import rank_correlation, top_overlap, usual_top

FEWEST_NEEDLES = 4
SPLITS = 100
RESAMPLES, SPLITS_EACH = 100, 2
_NORMAL_95 = 1.96


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """The agreement of random halves of the needles on the ranking of all heads.

    ``rank_correlation`` is Spearman's, -1 to 1, stepped up to the ranking by all needles;
    ``overlap`` is the fraction of the top ``k`` heads that the halves have in common, 0 to 1, not
    stepped up: rankings by all needles and by the same number of other needles would have more in
    common. Both are ``None`` below ``FEWEST_NEEDLES`` needles: too few to say.
    """

    needles: int
    k: int
    rank_correlation: Estimate | None
    overlap: Estimate | None

    def __post_init__(self) -> None:
        if (self.rank_correlation is None) != (self.overlap is None):
            raise ValueError(
                f"expected both estimates or neither, got {self.rank_correlation}, {self.overlap}"
            )

    def settled(self, bound: float) -> bool:
        """Return whether both intervals lie above ``bound``; never so with too few needles."""
        estimates = self.rank_correlation, self.overlap
        return all(known is not None and known.ci_low > bound for known in estimates)

    def to_json(self) -> dict[str, Any]:
        """Return the ``reliability`` object of ``run.json``, ``null`` for a missing estimate."""
        return asdict(self)


def split_half(
    per_case: Float[np.ndarray, "case layer query_head"],
    needles: Sequence[int],
    *,
    k: int | None = None,
    seed: int = 0,
) -> Reliability:
    """Estimate the split-half reliability, over needles, of one measure's scores.

    ``needles`` names the needle of each case; ``k`` is how many heads make the top, by default
    ``usual_top``. The needles are split at random ``SPLITS`` times, and each half ranks the heads
    by their mean score. The mean rank correlation r is stepped up to 2 r / (1 + abs r) (Spearman
    1910, Brown 1910; abs because chance correlations may be negative).

    Intervals are 1.96 standard errors of a Bayesian bootstrap over needles (Rubin 1981), cut at
    the ends of the scale. An ordinary resample would put copies of one needle into both halves,
    which would agree by that alone; here a needle stands in one half, with a random weight.

    The same seed gives the same numbers.

    Raises:
        ValueError: there are not as many needles named as cases.
    """
    totals, sizes = _by_needle(per_case, needles)
    count, heads = totals.shape
    k = usual_top(heads) if k is None else k
    if count < FEWEST_NEEDLES:
        return Reliability(needles=count, k=k, rank_correlation=None, overlap=None)
    draw = np.random.default_rng(seed)
    seen = _agreement(totals, sizes, np.ones((1, count)), SPLITS, k, draw)
    weights = draw.standard_exponential((RESAMPLES, count))
    resampled = _agreement(totals, sizes, weights, SPLITS_EACH, k, draw)
    return Reliability(
        needles=count,
        k=k,
        rank_correlation=_estimate(seen[0], resampled[0], least=-1.0),
        overlap=_estimate(seen[1], resampled[1], least=0.0),
    )


def _by_needle(
    per_case: Float[np.ndarray, "case layer query_head"], needles: Sequence[int]
) -> tuple[Float[np.ndarray, "needle head"], Float[np.ndarray, " needle"]]:
    """Add up every needle's scores over its cases, and count the cases of every needle."""
    cases, layers, heads = per_case.shape
    if len(needles) != cases:
        raise ValueError(f"expected the needle of each of {cases} cases, got {len(needles)}")
    found, which = np.unique(np.asarray(needles, dtype=np.int64), return_inverse=True)
    member = (which == np.arange(len(found))[:, None]).astype(np.float64)
    return member @ per_case.reshape(cases, layers * heads), member.sum(axis=1)


def _agreement(
    totals: Float[np.ndarray, "needle head"],
    sizes: Float[np.ndarray, " needle"],
    weights: Float[np.ndarray, "resample needle"],
    splits: int,
    k: int,
    draw: np.random.Generator,
) -> tuple[Float[np.ndarray, " resample"], Float[np.ndarray, " resample"]]:
    """Compute the rank correlation, stepped up, and the top-k overlap of random halves.

    Both are means over the ``splits`` of each resample.
    """
    resamples, needles = weights.shape
    weights = weights.repeat(splits, axis=0)
    first = draw.permuted(np.broadcast_to(np.arange(needles) < needles // 2, weights.shape), axis=1)
    halves = (np.where(half, weights, 0.0) for half in (first, ~first))
    # In single precision, where heads of equal scores are equal again after different rounding.
    one, other = (((h @ totals) / (h @ sizes)[:, None]).astype(np.float32) for h in halves)
    correlation, overlap = (
        found.reshape(resamples, splits).mean(axis=1)
        for found in (rank_correlation(one, other), top_overlap(one, other, k))
    )
    return 2 * correlation / (1 + np.abs(correlation)), overlap


def _estimate(
    seen: Float[np.ndarray, " 1"], resampled: Float[np.ndarray, " resample"], *, least: float
) -> Estimate:
    value, reach = float(seen[0]), _NORMAL_95 * float(resampled.std(ddof=1))
    return Estimate(value=value, ci_low=max(least, value - reach), ci_high=min(1.0, value + reach))

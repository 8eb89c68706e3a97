"""How right an answer is, and how firm a mean over cases: grades and bootstrap intervals.

Answers are normalised as LongBench does (Bai et al., arXiv 2308.14508): lower case, no
punctuation, no articles. Of several right answers the best fit counts.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

RESAMPLES = 1000
_ARTICLES = re.compile(r"\b(a|an|the)\b")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A number and its 95 % bootstrap interval."""

    value: float
    ci_low: float
    ci_high: float

    def text(self, decimals: int = 2, *, of_ends: int | None = None) -> str:
        """``0.38 (0.31 to 0.43)``; the ends of the interval with other decimals if need be."""
        ends = decimals if of_ends is None else of_ends
        return f"{self.value:.{decimals}f} ({self.ci_low:.{ends}f} to {self.ci_high:.{ends}f})"


def exact_match(response: str, answers: Sequence[str]) -> float:
    """100 where the response is one of the answers, else 0."""
    given = _words(response)
    return 100.0 * any(given == _words(answer) for answer in answers)


def f1(response: str, answers: Sequence[str]) -> float:
    """Token F1 of the response against the best of the answers, in per cent (qa_f1_score)."""
    given = _words(response)
    return max(_share(given, wanted, 0.5) for wanted in map(_words, answers))


def recall(response: str, answers: Sequence[str]) -> float:
    """The part of the words of the best of the answers that the response has, in per cent."""
    given = _words(response)
    return max(_share(given, wanted, 0.0) for wanted in map(_words, answers))


METRICS = {"exact_match": exact_match, "f1": f1, "recall": recall}
"""Grades of a response against right answers, in per cent."""

ACCEPTED = "accepted"
"""The grade that a probe itself gives: 100 where it accepts the response, else 0."""


def interval(
    values: Float[np.ndarray, " case"], groups: Sequence[int], *, seed: int = 0
) -> Estimate:
    """The mean over cases and its percentile bootstrap interval (Efron 1979).

    ``groups`` names what is resampled: cases of one needle are alike. Values of the same cases
    under another condition get the same resamples by the same seed; the interval of the
    differences is that of a paired bootstrap.
    """
    means = resampled_means(values[:, None], groups, seed=seed)
    low, high = np.quantile(means[:, 0], (0.025, 0.975))
    return Estimate(value=float(values.mean()), ci_low=float(low), ci_high=float(high))


def resampled_means(
    values: Float[np.ndarray, "case value"], groups: Sequence[int], *, seed: int
) -> Float[np.ndarray, "resample value"]:
    """Means over cases whose groups are drawn with replacement, as many as there are.

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


def _share(given: Sequence[str], wanted: Sequence[str], precision: float) -> float:
    """Words in common, in per cent of a weighted mean of both lengths."""
    common = (Counter(given) & Counter(wanted)).total()
    size = precision * len(given) + (1 - precision) * len(wanted)
    return 100 * common / size if common else 0.0


def _words(text: str) -> list[str]:
    """Normalised words; of a text of articles alone (choice "A") the articles."""
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return _ARTICLES.sub(" ", bare).split() or bare.split()

"""How right an answer is, in per cent.

Answers are normalised as LongBench does (Bai et al., arXiv 2308.14508): lower case, no
punctuation, no articles. Of several right answers the best fit counts.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")


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


def _share(given: Sequence[str], wanted: Sequence[str], precision: float) -> float:
    """Words in common, in per cent of a weighted mean of both lengths."""
    common = (Counter(given) & Counter(wanted)).total()
    size = precision * len(given) + (1 - precision) * len(wanted)
    return 100 * common / size if common else 0.0


def _words(text: str) -> list[str]:
    """Normalised words; of a text of articles alone (choice "A") the articles."""
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return _ARTICLES.sub(" ", bare).split() or bare.split()

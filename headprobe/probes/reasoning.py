"""Retrieval-reasoning, as in "Not All Heads Matter" (HeadKV-R2; Fu et al., arXiv 2410.19258).

The needle holds a fact to reason with, a wrong answer and the right one; the question can only be
answered by telling the two apart. The watched span is the right answer's sentence.
"""

from __future__ import annotations

import re
import string
from collections import Counter

from headprobe.cases import Case

_ARTICLES = re.compile(r"\b(a|an|the)\b")


def most_steps(case: Case) -> int:
    """Answer tokens watched at most: as many as the right answer has."""
    return len(case.answer_ids)


def success(response: str, case: Case) -> float:
    """Token F1 of the response against the answer, in per cent, normalised as LongBench does.

    Lower case, no punctuation, no articles (qa_f1_score of Bai et al., arXiv 2308.14508).
    """
    given, wanted = _words(response), _words(case.answer)
    common = (Counter(given) & Counter(wanted)).total()
    return 200 * common / (len(given) + len(wanted)) if common else 0.0


def _words(text: str) -> list[str]:
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return _ARTICLES.sub(" ", bare).split()

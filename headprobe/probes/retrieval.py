"""Needle in a haystack, as in "Retrieval Head" (Wu et al., arXiv 2404.15574).

One fact stands in unrelated prose; the question asks for it, the answer copies it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from headprobe.cases import Case

MOST_STEPS = 50


def most_steps(case: Case) -> int:
    """Answer tokens watched at most: 50, whatever the case."""
    return MOST_STEPS


def success(response: str, case: Case) -> float:
    """ROUGE-1 recall of the response against the needle's answer, in per cent (stemmed)."""
    recall: float = _scorer().score(case.answer, response)["rouge1"].recall
    return 100 * recall


@cache
def _scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1"], use_stemmer=True)

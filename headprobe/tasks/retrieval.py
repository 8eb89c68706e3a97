"""Needle in a haystack, as in "Retrieval Head" (Wu et al., arXiv 2404.15574).

One fact stands in unrelated prose; the question asks for it, the answer copies it.
"""

from __future__ import annotations

from headprobe.prompts.case import Case
from headprobe.tasks._task import NEEDLE_MEASURES, Probe, Task
from headprobe.tasks.grading import recall, score_recall

MAX_NEW_TOKENS = 50


def max_new_tokens(case: Case) -> int:
    """Return the most tokens of a response: 50 for every case."""
    return MAX_NEW_TOKENS


def score(response: str, case: Case) -> float:
    """Compute the recall of the part that gives the answer; 0 if the wrong one is named."""
    return score_recall(response, case.answer, case.wrong_answer)


def reference_score(response: str, case: Case) -> float:
    """Compute the response's ROUGE-1 recall of the answer, in per cent, without stemming."""
    return recall(response, [case.answer])


TASK = Task(
    name="retrieval",
    summary="needle in a haystack (Retrieval Head): copy a fact out of unrelated prose",
    probe=Probe(
        needles="retrieval.jsonl",
        max_new_tokens=max_new_tokens,
        score=score,
        counts_all_steps=True,
        reference_score=reference_score,
    ),
    measures=("retrieval",),
    more=NEEDLE_MEASURES,
)

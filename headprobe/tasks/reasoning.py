"""Retrieval-reasoning, as in "Not All Heads Matter" (HeadKV-R2; Fu et al., arXiv 2410.19258).

The needle holds a fact to reason with, a wrong answer and the right one; the question can only be
answered by telling the two apart. The watched span is the right answer's sentence.
"""

from __future__ import annotations

from headprobe.prompts.case import Case
from headprobe.tasks.grading import f1


def most_steps(case: Case) -> int:
    """Answer tokens watched at most: as many as the right answer has."""
    return len(case.answer_ids)


def success(response: str, case: Case) -> float:
    """Token F1 of the response against the answer, in per cent, normalised as LongBench does."""
    return f1(response, [case.answer])

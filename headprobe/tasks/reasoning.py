"""Retrieval-reasoning, as in "Not All Heads Matter" (HeadKV-R2; Fu et al., arXiv 2410.19258).

The needle holds a fact to reason with, a wrong answer and the right one; the question can only be
answered by telling the two apart. The watched span is the right answer's sentence.
"""

from __future__ import annotations

from headprobe.prompts.case import Case
from headprobe.tasks._task import NEEDLE_MEASURES, Probe, Task, twice_the_answer
from headprobe.tasks.grading import f1, score_aligned


def score(response: str, case: Case) -> float:
    """Compute the token F1 of the part that gives the answer; 0 if the wrong answer is named."""
    return score_aligned(response, case.answer, case.wrong_answer)


def reference_max_new_tokens(case: Case) -> int:
    """Return the answer's number of tokens, the most that HeadKV lets a response have."""
    return len(case.answer_ids)


def reference_score(response: str, case: Case) -> float:
    """Compute the token F1 of the whole response against the answer, in per cent."""
    return f1(response, [case.answer])


TASK = Task(
    name="r2",
    summary="retrieval and reasoning (HeadKV-R2): tell two answers apart by a third fact",
    probe=Probe(
        needles="r2.jsonl",
        max_new_tokens=twice_the_answer,
        score=score,
        reference_max_new_tokens=reference_max_new_tokens,
        reference_score=reference_score,
    ),
    measures=("r2",),
    more=NEEDLE_MEASURES,
)

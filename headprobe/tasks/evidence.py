"""Questions about real documents, whose evidence is marked (LooGLE; Li et al., arXiv 2311.04939).

The watched span is the sentence, or the sentences, of the document that answer the question. Heads
are scored on them as HeadKV-R2 scores them on needles.
"""

from __future__ import annotations

from headprobe.prompts.case import Case
from headprobe.tasks._task import NEEDLE_MEASURES, Probe, Task, twice_the_answer
from headprobe.tasks.grading import score_aligned


def score(response: str, case: Case) -> float:
    """Compute the token F1 of the part of a response that gives the answer, in per cent."""
    return score_aligned(response, case.answer)


TASK = Task(
    name="evidence",
    summary="questions about documents (LooGLE): the sentences that answer them are watched",
    probe=Probe(
        needles="retrieval.jsonl",
        reads_documents=True,
        max_new_tokens=twice_the_answer,
        score=score,
    ),
    measures=("r2",),
    more=NEEDLE_MEASURES,
)

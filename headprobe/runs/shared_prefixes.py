"""Tell which part of a case's prompt other cases may share."""

from __future__ import annotations

from collections.abc import Sequence

from headprobe.measures import get_measure
from headprobe.prompts.case import Case, QuestionSpan
from headprobe.tasks import Task


def watches_question(task: Task) -> bool:
    """Tell whether some measure of the task watches the question's tokens."""
    return task.asks and any(get_measure(name).watches == "question" for name in task.measures)


def shared_prefixes(cases: Sequence[Case], task: Task) -> list[Sequence[int]]:
    """Return the part of each prompt that others may share: up to the first watched token."""
    asks = watches_question(task)
    ends = [question_of(case).start if asks else task.probe.first_query(case) + 1 for case in cases]
    return [case.input_ids[:end] for case, end in zip(cases, ends, strict=True)]


def question_of(case: Case) -> QuestionSpan:
    """Return the place of a case's question.

    Raises:
        ValueError: the case has no question.
    """
    if case.question is None:
        raise ValueError(f"expected a question in case {case.case_id}, got none")
    return case.question

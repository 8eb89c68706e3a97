"""Tell which part of a case's prompt other cases may share."""

from __future__ import annotations

from collections.abc import Sequence

from headprobe.measures import get_measure
from headprobe.prompts.case import Case, QuestionSpan
from headprobe.scores.utility import WINDOW
from headprobe.tasks import Task


def watches_question(task: Task) -> bool:
    """Tell whether some measure of the task watches the question's tokens."""
    return task.asks and any(get_measure(name).watches == "question" for name in task.measures)


def shared_prefixes(cases: Sequence[Case], task: Task) -> list[Sequence[int]]:
    """Return the part of each prompt that others may share: up to the first watched token."""
    return [case.input_ids[: _first_watched(case, task) + 1] for case in cases]


def cuts_of(case: Case) -> tuple[int, int]:
    """Return where a case's prompt is cut with the question known, and before the question."""
    return case.length, question_of(case).start


def _first_watched(case: Case, task: Task) -> int:
    """Return the position of the first query whose attention is watched."""
    if task.gathers_utility:
        return max(0, question_of(case).start - WINDOW)
    if watches_question(task):
        return question_of(case).start - 1
    return task.probe.first_query(case)


def question_of(case: Case) -> QuestionSpan:
    """Return the place of a case's question.

    Raises:
        ValueError: the case has no question.
    """
    if case.question is None:
        raise ValueError(f"expected a question in case {case.case_id}, got none")
    return case.question

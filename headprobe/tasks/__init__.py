"""Tasks: each names its kind of prompt, how answers are graded, and the measures to compute.

``task`` defines the record of a task; ``retrieval``, ``reasoning`` and ``repetition`` make prompts
and grade responses; ``grading`` compares a response with right answers.
"""

from __future__ import annotations

from headprobe.errors import UsageError
from headprobe.tasks import reasoning, repetition, retrieval
from headprobe.tasks.task import PASSED_ABOVE, Probe, Steps, Task

__all__ = [
    "DEFAULT_TASK",
    "PASSED_ABOVE",
    "TASKS",
    "Probe",
    "Steps",
    "Task",
    "find_task",
    "get_asking_task",
    "get_task",
]

_OF_NEEDLES = ("retrieval", "r2", "semantic", "mass", "contrast", "locos", "qr")
"""Measures that rest on a watched span and a question about it."""

TASKS = {
    "r2": Task(
        name="r2",
        summary="retrieval and reasoning (HeadKV-R2): tell two answers apart by a third fact",
        probe=Probe(
            needles="r2.jsonl",
            max_new_tokens=reasoning.max_new_tokens,
            score=reasoning.score,
            reference_max_new_tokens=reasoning.reference_max_new_tokens,
            reference_success=reasoning.reference_success,
        ),
        measures=("r2",),
        more=_OF_NEEDLES,
    ),
    "retrieval": Task(
        name="retrieval",
        summary="needle in a haystack (Retrieval Head): copy a fact out of unrelated prose",
        probe=Probe(
            needles="retrieval.jsonl",
            max_new_tokens=retrieval.max_new_tokens,
            score=retrieval.score,
            counts_all_steps=True,
            reference_success=retrieval.reference_success,
        ),
        measures=("retrieval",),
        more=_OF_NEEDLES,
    ),
    "razor": Task(
        name="razor",
        summary="repeated random tokens (RazorAttention): find where a token stood before",
        probe=Probe(
            draw=repetition.draw,
            first_query=repetition.first_query,
            max_new_tokens=repetition.max_new_tokens,
            score=repetition.score,
        ),
        measures=("induction", "echo"),
    ),
    "alibi": Task(
        name="alibi",
        summary="how far a head sees (RazorAttention): its scope in tokens; bloom, falcon, mpt",
        probe=Probe(max_new_tokens=repetition.max_new_tokens, score=repetition.score),
        measures=("alibi",),
    ),
}

DEFAULT_TASK = "r2"


def find_task(name: str) -> Task | None:
    """Return the task called ``name``; ``None`` for a name of imported scores."""
    return TASKS.get(name)


def get_asking_task(name: str) -> Task:
    """Return the task called ``name`` if it asks for answers, else raise a ``UsageError``."""
    asking = [task.name for task in TASKS.values() if task.asks]
    if name not in asking:
        message = f"expected {', '.join(asking)}, which ask for answers"
        raise UsageError(message, option="task", value=name)
    return TASKS[name]


def get_task(name: str) -> Task:
    """Return the task called ``name``; ``UsageError`` lists the names that there are."""
    if name not in TASKS:
        raise UsageError(f"expected {', '.join(TASKS)}", option="task", value=name)
    return TASKS[name]

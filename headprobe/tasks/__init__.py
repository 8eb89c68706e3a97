"""Tasks: how their cases are asked, how answers are graded, which measures are taken on them.

``task`` is the record of one; ``retrieval``, ``reasoning`` and ``repetition`` are how they ask and
grade, ``grading`` compares a response with right answers.
"""

from __future__ import annotations

from headprobe.errors import UsageError
from headprobe.tasks import reasoning, repetition, retrieval
from headprobe.tasks.task import ACCEPTED_ABOVE, Probe, Task

__all__ = [
    "ACCEPTED_ABOVE",
    "DEFAULT_TASK",
    "TASKS",
    "WEIGHT_TASKS",
    "Probe",
    "Task",
    "asks",
    "get_asking_task",
    "get_task",
]

_OF_NEEDLES = ("retrieval", "r2", "semantic", "mass", "contrast", "locos", "qr")
"""Measures that rest on a watched span and a question about it."""

TASKS = {
    "r2": Task(
        summary="retrieval and reasoning (HeadKV-R2): tell two answers apart by a third fact",
        probe=Probe(
            needles="r2.jsonl",
            most_steps=reasoning.most_steps,
            success=reasoning.success,
        ),
        measures=("r2",),
        more=_OF_NEEDLES,
    ),
    "retrieval": Task(
        summary="needle in a haystack (Retrieval Head): copy a fact out of unrelated prose",
        probe=Probe(
            needles="retrieval.jsonl",
            most_steps=retrieval.most_steps,
            success=retrieval.success,
        ),
        measures=("retrieval",),
        more=_OF_NEEDLES,
    ),
    "razor": Task(
        summary="repeated random tokens (RazorAttention): find where a token stood before",
        probe=Probe(
            draw=repetition.draw,
            first_query=repetition.first_query,
            most_steps=repetition.most_steps,
            success=repetition.success,
        ),
        measures=("induction", "echo"),
    ),
}

DEFAULT_TASK = "r2"

WEIGHT_TASKS = {
    "alibi": "how far a head sees (RazorAttention): its scope in tokens; bloom, falcon, mpt",
}
"""Tasks that need no cases, and what they probe; each has one measure, of its own name."""


def asks(task: str) -> bool:
    """Whether a task asks for answers; of a name that is none, no."""
    return task in TASKS and bool(TASKS[task].probe.needles)


def get_asking_task(name: str) -> Task:
    """The task of that name that asks for answers; ``UsageError`` lists what there is."""
    if not asks(name):
        raise UsageError(
            f"--task takes {', '.join(filter(asks, TASKS))}, which ask for answers; got {name!r}"
        )
    return TASKS[name]


def get_task(name: str) -> Task:
    """The task of that name; ``UsageError`` lists what there is."""
    if name not in TASKS:
        raise UsageError(f"no task {name!r}; there are {', '.join((*TASKS, *WEIGHT_TASKS))}")
    return TASKS[name]

"""Tasks: each names its kind of prompt, how answers are graded, and the measures to compute.

``_task`` has the record of a task; ``retrieval``, ``reasoning``, ``evidence`` and ``repetition``
make prompts and grade responses, ``natural_text`` is only read, ``alibi`` reads the weights alone,
and each ends in its ``TASK``; ``grading`` compares a response with right answers.
"""

from __future__ import annotations

from headprobe.errors import UsageError
from headprobe.tasks import alibi, evidence, natural_text, reasoning, repetition, retrieval
from headprobe.tasks._task import MEASURE_GROUP, PASSED_ABOVE, Probe, Steps, Task

__all__ = [
    "DEFAULT_TASK",
    "MEASURE_GROUP",
    "PASSED_ABOVE",
    "TASKS",
    "Probe",
    "Steps",
    "Task",
    "find_task",
    "get_asking_task",
    "get_task",
]

TASKS: dict[str, Task] = {
    "r2": reasoning.TASK,
    "retrieval": retrieval.TASK,
    "evidence": evidence.TASK,
    "razor": repetition.TASK,
    "alibi": alibi.TASK,
    "reconstruct": natural_text.RECONSTRUCT,
    "onthefly": natural_text.ONTHEFLY,
    "reach": natural_text.REACH,
    "stability": natural_text.STABILITY,
}

DEFAULT_TASK = "r2"


def find_task(name: str) -> Task | None:
    """Return the task called ``name``; ``None`` for a name of imported scores."""
    return TASKS.get(name)


def get_asking_task(name: str) -> Task:
    """Return the task called ``name`` if it asks about needles, else raise a ``UsageError``."""
    asking = [task.name for task in TASKS.values() if task.asks and not task.reads_documents]
    if name not in asking:
        message = f"expected {', '.join(asking)}, which ask about needles"
        raise UsageError(message, option="task", value=name)
    return TASKS[name]


def get_task(name: str) -> Task:
    """Return the task called ``name``; ``UsageError`` lists the names that there are."""
    if name not in TASKS:
        raise UsageError(f"expected {', '.join(TASKS)}", option="task", value=name)
    return TASKS[name]

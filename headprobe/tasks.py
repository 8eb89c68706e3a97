"""Tasks: a probe with the measures that are taken on its cases."""

from __future__ import annotations

from dataclasses import dataclass

from headprobe.errors import UsageError
from headprobe.probes import PROBES, Probe


@dataclass(frozen=True, eq=False, kw_only=True)
class Task:
    """What ``headprobe score --task`` runs; the first measure is the task's own."""

    summary: str
    probe: Probe
    measures: tuple[str, ...]


TASKS = {
    "r2": Task(
        summary="retrieval and reasoning (HeadKV-R2): tell two answers apart by a third fact",
        probe=PROBES["reasoning"],
        measures=("r2",),
    ),
    "retrieval": Task(
        summary="needle in a haystack (Retrieval Head): copy a fact out of unrelated prose",
        probe=PROBES["retrieval"],
        measures=("retrieval",),
    ),
    "razor": Task(
        summary="repeated random tokens (RazorAttention): find where a token stood before",
        probe=PROBES["repetition"],
        measures=("induction", "echo"),
    ),
}

WEIGHT_TASKS = {
    "alibi": "how far a head sees (RazorAttention): its scope in tokens; bloom, falcon, mpt",
}
"""Tasks that need no cases, and what they probe; each has one measure, of its own name."""


def get_task(name: str) -> Task:
    """The task of that name; ``UsageError`` lists what there is."""
    if name not in TASKS:
        raise UsageError(f"no task {name!r}; there are {', '.join((*TASKS, *WEIGHT_TASKS))}")
    return TASKS[name]

"""Tasks: a probe with the measures that are taken on its cases."""

from __future__ import annotations

from dataclasses import dataclass, replace

from headprobe.errors import UsageError
from headprobe.tasks.probe import PROBES, Probe


@dataclass(frozen=True, eq=False, kw_only=True)
class Task:
    """What ``headprobe score --task`` runs.

    ``measures`` are taken, the task's own first; ``more`` can be taken on its cases too.
    """

    summary: str
    probe: Probe
    measures: tuple[str, ...]
    more: tuple[str, ...] = ()

    @property
    def offered(self) -> tuple[str, ...]:
        """All the measures that can be taken."""
        return tuple(dict.fromkeys((*self.measures, *self.more)))

    def measuring(self, names: str | None) -> Task:
        """The task with other measures: a comma list of them, ``all``, or as it is for ``None``.

        However they are listed, their order is the task's.

        Raises:
            UsageError: it does not take one of them, or none is named.
        """
        if names is None:
            return self
        wanted = [name.strip() for name in names.split(",")]
        unknown = [name for name in wanted if name not in (*self.offered, "all")]
        if unknown:
            raise UsageError(
                f"no measure {unknown[0]!r} for this task; there are {', '.join(self.offered)}, "
                "or all of them with all"
            )
        chosen = (name for name in self.offered if "all" in wanted or name in wanted)
        return replace(self, measures=tuple(chosen))


_OF_NEEDLES = ("retrieval", "r2", "semantic", "mass", "contrast", "locos", "qr")
"""Measures that rest on a watched span and a question about it."""

TASKS = {
    "r2": Task(
        summary="retrieval and reasoning (HeadKV-R2): tell two answers apart by a third fact",
        probe=PROBES["reasoning"],
        measures=("r2",),
        more=_OF_NEEDLES,
    ),
    "retrieval": Task(
        summary="needle in a haystack (Retrieval Head): copy a fact out of unrelated prose",
        probe=PROBES["retrieval"],
        measures=("retrieval",),
        more=_OF_NEEDLES,
    ),
    "razor": Task(
        summary="repeated random tokens (RazorAttention): find where a token stood before",
        probe=PROBES["repetition"],
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

"""What a task is: how its cases are asked and graded, and the measures taken on them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from headprobe.errors import UsageError
from headprobe.prompts.case import Case

ACCEPTED_ABOVE = 50.0


def _last_token(case: Case) -> int:
    """The first query of an answer: the one that chooses its first token."""
    return case.length - 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Probe:
    """One kind of case.

    ``needles`` names the bundled file of needles, which are hidden and asked for. In their place
    ``draw`` makes prompts that are only read, with the parameters of ``repetition.draw``.

    Watched are the prompt's queries from position ``first_query`` on, and the answer's.
    ``most_steps`` bounds the answer's tokens, 0 where there is none; ``success`` grades a response
    from 0 to 100; it is accepted above ``ACCEPTED_ABOVE``.
    """

    needles: str = ""
    draw: Callable[..., list[Case]] | None = None
    first_query: Callable[[Case], int] = _last_token
    most_steps: Callable[[Case], int]
    success: Callable[[str, Case], float]


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

"""What a task is: how its cases are asked and graded, and the measures taken on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from headprobe.errors import UsageError
from headprobe.prompts.case import Case

PASSED_ABOVE = 50.0
"""A response passes when its success, in per cent, is higher."""

Steps = Literal["aligned", "reference"]
"""Which steps are summed over: those that write the answer, or the published methods'."""


def _last_token(case: Case) -> int:
    """The first query of an answer: the one that chooses its first token."""
    return case.length - 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Probe:
    """One kind of case.

    ``needles`` names the bundled file of needles, which are hidden and asked for. In their place
    ``draw`` makes prompts that are only read, with the parameters of ``repetition.draw``. With
    neither, the weights alone are read.

    Watched are the prompt's queries from position ``first_query`` on, and the answer's.
    ``max_new_tokens`` bounds the response, 0 where there is none; ``score`` grades it from 0 to
    100; it is accepted above ``PASSED_ABOVE``. Scores are summed over the steps that write the
    answer, or over all of the response's where the probe ``counts_all_steps``. Under ``steps``
    reference, bound and grade are the published method's own, where it has such.
    """

    needles: str = ""
    draw: Callable[..., list[Case]] | None = None
    first_query: Callable[[Case], int] = _last_token
    max_new_tokens: Callable[[Case], int]
    score: Callable[[str, Case], float]
    steps: Steps = "aligned"
    counts_all_steps: bool = False
    reference_max_new_tokens: Callable[[Case], int] | None = None
    reference_success: Callable[[str, Case], float] | None = None

    def counting(self, steps: Steps) -> Probe:
        """The probe that counts these steps."""
        if steps == "aligned":
            return self
        return replace(
            self,
            steps=steps,
            max_new_tokens=self.reference_max_new_tokens or self.max_new_tokens,
            score=self.reference_success or self.score,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Task:
    """What ``headprobe score --task`` runs.

    ``measures`` are taken, the task's own first; ``more`` can be taken on its cases too.
    """

    name: str
    summary: str
    probe: Probe
    measures: tuple[str, ...]
    more: tuple[str, ...] = ()

    @property
    def needs_cases(self) -> bool:
        """Whether a model is run on cases; else its weights alone say the measures."""
        return self.asks or self.probe.draw is not None

    @property
    def asks(self) -> bool:
        """Whether the cases ask for answers."""
        return bool(self.probe.needles)

    @property
    def offered(self) -> tuple[str, ...]:
        """All the measures that can be taken."""
        return tuple(dict.fromkeys((*self.measures, *self.more)))

    def measuring(self, names: Sequence[str] | None) -> Task:
        """Return the task with other measures, all of them for ``all``, its own for ``None``.

        However they are listed, their order is the task's.

        Raises:
            UsageError: it does not take one of them, or none is named.
        """
        if names is None:
            return self
        unknown = [name for name in names or [""] if name not in (*self.offered, "all")]
        if unknown:
            raise UsageError(
                f"this task takes {', '.join(self.offered)}, or all of them with all",
                option="measures",
                value=unknown[0],
            )
        chosen = (name for name in self.offered if "all" in names or name in names)
        return replace(self, measures=tuple(chosen))

    def counting(self, steps: Steps) -> Task:
        """The task that counts the steps that write the answer, or the published method's."""
        return replace(self, probe=self.probe.counting(steps))

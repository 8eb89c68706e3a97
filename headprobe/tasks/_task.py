"""The record of a task: its kind of prompt, its grading, and the measures to compute."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from headprobe.errors import UsageError
from headprobe.prompts.case import Case
from headprobe.registry import method_names

MEASURE_GROUP = "headprobe.measures"
"""The entry-point group of measures that installed packages bring."""

PASSED_ABOVE = 50.0
"""A response passes when its score, in per cent, is above this."""

Steps = Literal["aligned", "reference"]
"""The steps to sum scores over: the ones that write the answer, or the published method's."""

LEAST_MORE = 16
"""The least tokens that a response may have beyond the answer's."""

NEEDLE_MEASURES = ("retrieval", "r2", "semantic", "mass", "contrast", "locos", "qr")
"""Measures that rest on a watched span and a question about it."""


def _last_token(case: Case) -> int:
    """Return the position of the query that chooses the answer's first token."""
    return case.length - 1


def _no_answer(case: Case) -> int:
    """Return 0: there is no answer."""
    return 0


def twice_the_answer(case: Case) -> int:
    """Return the most tokens of a response: the answer's twice, or plus 16 if that is more."""
    answer = len(case.answer_ids)
    return max(2 * answer, answer + LEAST_MORE)


def _passes(response: str, case: Case) -> float:
    """Score 100: nothing is asked, so nothing fails."""
    return 100.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Probe:
    """One kind of case: its making, its watched queries and its grading.

    ``needles`` names the bundled file of needles, which are hidden and asked for. Instead of
    needles ``draw`` may make prompts that are only read; it takes the parameters of
    ``repetition.draw``, or where the probe ``reads_text`` those of ``natural_text.draw``. With
    neither, only the weights are read. A probe that ``reads_documents`` asks about documents of the
    user's, whose evidence stands in the place of needles; ``needles`` then names worked examples.

    The watched queries are the prompt's from position ``first_query`` on, and the answer's.
    ``max_new_tokens`` bounds the response, 0 where there is none; ``score`` grades it from 0 to
    100; it passes above ``PASSED_ABOVE``. Scores are summed over the steps that write the answer,
    or over all steps of the response where the probe ``counts_all_steps``. Where ``steps`` is
    ``reference``, bound and grade are the published method's, if it has its own.
    """

    needles: str = ""
    draw: Callable[..., list[Case]] | None = None
    reads_text: bool = False
    reads_documents: bool = False
    first_query: Callable[[Case], int] = _last_token
    max_new_tokens: Callable[[Case], int] = _no_answer
    score: Callable[[str, Case], float] = _passes
    steps: Steps = "aligned"
    counts_all_steps: bool = False
    reference_max_new_tokens: Callable[[Case], int] | None = None
    reference_score: Callable[[str, Case], float] | None = None

    def counting(self, steps: Steps) -> Probe:
        """Return the probe with scores summed over other ``steps``."""
        if steps == "aligned":
            return self
        return replace(
            self,
            steps=steps,
            max_new_tokens=self.reference_max_new_tokens or self.max_new_tokens,
            score=self.reference_score or self.score,
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Task:
    """The cases and measures that the name of a task stands for.

    ``measures`` are computed, the task's own first; ``more`` can be computed on its cases too.
    Where it ``gathers_utility``, the curves of ``scores.utility`` are gathered too.
    """

    name: str
    summary: str
    probe: Probe
    measures: tuple[str, ...]
    more: tuple[str, ...] = ()
    gathers_utility: bool = False

    @property
    def needs_cases(self) -> bool:
        """True if a model is run on cases; false if the measures need only its weights."""
        return self.asks or self.probe.draw is not None

    @property
    def asks(self) -> bool:
        """True if the cases ask for answers."""
        return bool(self.probe.needles)

    @property
    def reads_text(self) -> bool:
        """True if the measures are computed on natural text that is only read."""
        return self.probe.reads_text

    @property
    def reads_documents(self) -> bool:
        """True if the cases are questions about documents of the user's."""
        return self.probe.reads_documents

    @property
    def offered(self) -> tuple[str, ...]:
        """All the measures that can be computed on the task's cases.

        On cases that ask, these are the measures of installed packages too.
        """
        others = method_names({}, MEASURE_GROUP) if self.asks else ()
        return tuple(dict.fromkeys((*self.measures, *self.more, *others)))

    def measuring(self, names: Sequence[str] | None) -> Task:
        """Return the task with the measures ``names``; ``all`` names all, ``None`` the task's own.

        The measures stand in the task's order, whatever the order of ``names``.

        Raises:
            UsageError: the task does not offer a measure, or none is named.
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

    def gathering_utility(self) -> Task:
        """Return the task with the utility of each KV head's entries gathered.

        Raises:
            UsageError: the task asks nothing.
        """
        if not self.asks:
            message = f"task {self.name} asks nothing, so no answer attends: leave it out"
            raise UsageError(message, option="utility")
        return replace(self, gathers_utility=True)

    def counting(self, steps: Steps) -> Task:
        """Return the task with scores summed over the answer's or the published method's steps."""
        return replace(self, probe=self.probe.counting(steps))

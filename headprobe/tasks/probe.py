"""A probe: how a task's cases are asked, how many steps are watched, and when an answer counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from headprobe.prompts.case import Case
from headprobe.tasks import reasoning, repetition, retrieval

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


PROBES = {
    "retrieval": Probe(
        needles="retrieval.jsonl",
        most_steps=retrieval.most_steps,
        success=retrieval.success,
    ),
    "reasoning": Probe(
        needles="r2.jsonl",
        most_steps=reasoning.most_steps,
        success=reasoning.success,
    ),
    "repetition": Probe(
        draw=repetition.draw,
        first_query=repetition.first_query,
        most_steps=repetition.most_steps,
        success=repetition.success,
    ),
}

"""Probes: how a task's cases are asked, how many steps are watched, and when an answer counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from headprobe.cases import Case
from headprobe.probes import reasoning, retrieval

ACCEPTED_ABOVE = 50.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Probe:
    """One kind of case.

    ``needles`` names the bundled needle file; ``most_steps`` bounds the answer's tokens;
    ``success`` grades a response from 0 to 100; it is accepted above ``ACCEPTED_ABOVE``.
    """

    needles: str
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
}

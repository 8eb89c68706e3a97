"""Say why cases fail: early in a run in which few pass, and by kind at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from headprobe.prompts.case import Case
from headprobe.runs.observation import Observation
from headprobe.tasks import Probe
from headprobe.tasks.grading import FAILURE_KINDS, FailureKind, failure_kind

LOOKED_AT = 16
"""Cases after which a run is looked at."""

FEW = 0.2
"""The share of passed cases below which the run says why."""

ADVICE = (
    "try another `prompt`, shorter `lengths` or other `needles`; "
    "`decode=forced` scores the heads on the expected answers all the same"
)
_SHOWN, _LONGEST = 3, 60


def few_pass(cases: Sequence[Case], observations: Sequence[Observation]) -> str | None:
    """One line with responses beside what was expected, where few of the cases pass."""
    failed = [seen for seen in observations if not seen.passed]
    passed = len(observations) - len(failed)
    if passed >= FEW * len(observations):
        return None
    shown = "; ".join(
        f"{_short(seen.response)} for {_short(cases[seen.case_id].answer)}"
        for seen in failed[:_SHOWN]
    )
    return f"{passed} of the first {len(observations)} cases passed: {shown}; {ADVICE}"


def count_failures(
    cases: Sequence[Case], observations: Sequence[Observation], probe: Probe
) -> dict[FailureKind, int]:
    """How many cases failed, by kind, the kinds that there are."""
    kinds = Counter(
        _kind(cases[seen.case_id], seen, probe) for seen in observations if not seen.passed
    )
    return {kind: kinds[kind] for kind in FAILURE_KINDS if kinds[kind]}


def describe_failures(failed: dict[FailureKind, int]) -> str:
    """One phrase: "12 failed: 5 wrong answer named, 7 cut off"."""
    named = ", ".join(f"{count} {kind}" for kind, count in failed.items())
    return f"{sum(failed.values())} failed: {named}"


def _kind(case: Case, seen: Observation, probe: Probe) -> FailureKind:
    return failure_kind(
        seen.response,
        case.answer,
        case.wrong_answer,
        cut_off=len(seen.generated_ids) >= probe.max_new_tokens(case),
    )


def _short(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= _LONGEST else line[: _LONGEST - 3] + "...")

"""Explain failed cases: early in a run where few pass, and by kind at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from headprobe.errors import excerpt
from headprobe.prompts.case import Case
from headprobe.runs.observation import Observation
from headprobe.tasks import Probe
from headprobe.tasks.grading import FAILURE_KINDS, FailureKind, failure_kind

LOOKED_AT = 16
"""The number of cases after which a run's first responses are checked."""

FEW = 0.2
"""The fraction of passed cases below which a run shows some of its failures."""

ADVICE = (
    "try another `prompt`, shorter `lengths`, other `needles` or an easier `task` (`retrieval`); "
    "`decode=forced` scores the heads on the expected answers all the same"
)
_MUTE_ADVICE = (
    "the model says nothing or refuses: try another `prompt` or `chat_template`, or a model that "
    "is tuned to answer; `decode=forced` scores the heads on the expected answers all the same"
)
_SHOWN = 3


def few_pass(cases: Sequence[Case], observations: Sequence[Observation]) -> str | None:
    """Show responses beside the expected answers, on one line, if few of the cases passed."""
    failed = [seen for seen in observations if not seen.passed]
    passed = len(observations) - len(failed)
    if passed >= FEW * len(observations):
        return None
    shown = "; ".join(
        f"{_on_a_line(seen.response)} for {_on_a_line(cases[seen.case_id].answer)}"
        for seen in failed[:_SHOWN]
    )
    graded = ((seen.response, cases[seen.case_id]) for seen in failed)
    kinds = Counter(failure_kind(said, case.answer, case.wrong_answer) for said, case in graded)
    return f"{passed} of the first {len(observations)} cases passed: {shown}; {advice(kinds)}"


def advice(failed: Mapping[FailureKind, int]) -> str:
    """Say what to try where many cases fail; a model that says nothing needs no shorter prompts."""
    mute = failed.get("nothing said", 0) + failed.get("refused", 0)
    return _MUTE_ADVICE if 2 * mute > sum(failed.values()) else ADVICE


def count_failures(
    cases: Sequence[Case], observations: Sequence[Observation], probe: Probe
) -> dict[FailureKind, int]:
    """Count failed cases by kind of failure, without the kinds that do not occur."""
    kinds = Counter(
        _kind(cases[seen.case_id], seen, probe) for seen in observations if not seen.passed
    )
    return {kind: kinds[kind] for kind in FAILURE_KINDS if kinds[kind]}


def describe_failures(failed: dict[FailureKind, int]) -> str:
    """Describe the counts, as in "12 failed: 5 wrong answer named, 7 cut off"."""
    named = ", ".join(f"{count} {kind}" for kind, count in failed.items())
    return f"{sum(failed.values())} failed: {named}"


def _kind(case: Case, seen: Observation, probe: Probe) -> FailureKind:
    return failure_kind(
        seen.response,
        case.answer,
        case.wrong_answer,
        cut_off=len(seen.generated_ids) >= probe.max_new_tokens(case),
    )


def _on_a_line(text: str) -> str:
    return repr(excerpt(" ".join(text.split())))

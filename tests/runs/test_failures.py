"""What a run says about the cases that fail."""

from __future__ import annotations

from headprobe.prompts.case import Case
from headprobe.runs.failures import ADVICE, advice, count_failures, describe_failures, few_pass
from headprobe.runs.observation import Observation
from headprobe.tasks import TASKS

PROBE = TASKS["r2"].probe


def case(number: int) -> Case:
    return Case(
        case_id=number,
        needle_id=number,
        length=3,
        depth=0.0,
        position=0,
        input_ids=(1, 2, 3),
        span_start=0,
        span_end=1,
        answer="tin drums",
        answer_ids=(4, 5),
        wrong_answer="velvet kettles",
    )


def seen(number: int, response: str, *, passed: bool = False, tokens: int = 3) -> Observation:
    return Observation(
        case_id=number,
        generated_ids=(7,) * tokens,
        step_start=0,
        step_end=0,
        response=response,
        score=100.0 * passed,
        scores={},
    )


CASES = [case(number) for number in range(16)]


def test_a_run_in_which_few_pass_shows_three_responses_and_what_to_try() -> None:
    observed = [seen(n, f"answer\n{n} {'x' * 80}", passed=n < 3) for n in range(16)]
    told = few_pass(CASES, observed)
    assert told is not None
    assert told.startswith("3 of the first 16 cases passed: 'answer 3 xxx")
    assert told.count("for 'tin drums'") == 3
    assert "`prompt`" in told
    assert "`decode=forced`" in told
    assert "\n" not in told
    assert few_pass(CASES, [*observed[:-1], seen(15, "tin drums", passed=True)]) is None


def test_failed_cases_are_counted_by_kind() -> None:
    longest = PROBE.max_new_tokens(CASES[0])
    observed = [
        seen(0, "tin drums", passed=True),
        seen(1, "velvet kettles"),
        seen(2, "velvet kettles, I think"),
        seen(3, "I cannot say"),
        seen(4, "The person who", tokens=longest),
        seen(5, ""),
    ]
    failed = count_failures(CASES, observed, PROBE)
    assert failed == {"nothing said": 1, "wrong answer named": 2, "refused": 1, "cut off": 1}
    assert describe_failures(failed) == (
        "5 failed: 1 nothing said, 2 wrong answer named, 1 refused, 1 cut off"
    )
    assert count_failures(CASES, observed[:1], PROBE) == {}


def test_a_model_that_says_nothing_is_not_told_to_shorten_prompts() -> None:
    assert advice({"other": 3, "cut off": 2, "refused": 4}) == ADVICE
    for failed in ({"nothing said": 3, "other": 1}, {"refused": 2, "nothing said": 2, "other": 3}):
        assert "lengths" not in advice(failed)
        assert "`chat_template`" in advice(failed)
    mute = [seen(number, "I'm sorry, I cannot help.") for number in range(8)]
    told = few_pass([case(number) for number in range(8)], mute)
    assert told is not None
    assert "lengths" not in told

import pytest

from headprobe.prompts.case import Case
from headprobe.tasks import TASKS
from headprobe.tasks.reasoning import most_steps, success


def case(answer: str, answer_tokens: int = 3) -> Case:
    return Case(
        case_id=0,
        needle_id=0,
        length=4,
        depth=0.0,
        position=1,
        input_ids=(1, 2, 3, 4),
        span_start=1,
        span_end=3,
        answer=answer,
        answer_ids=(9,) * answer_tokens,
    )


@pytest.mark.parametrize("answer_tokens", [1, 7, 200])
def test_as_many_steps_are_watched_as_the_answer_has_tokens(answer_tokens: int) -> None:
    assert most_steps(case("x", answer_tokens)) == answer_tokens


# Token F1 by hand: 2 * common / (words of response + words of answer), after LongBench's
# normalisation: lower case, no punctuation, no articles.
@pytest.mark.parametrize(
    ("answer", "response", "per_cent"),
    [
        ("velvet kettles", "velvet kettles", 100),
        ("velvet kettles", "Velvet, kettles!", 100),
        ("the velvet kettles", "a velvet kettles", 100),
        ("velvet kettles", "velvet mirrors", 100 * 2 * 1 / 4),
        ("velvet kettles", "It is the velvet kettles.", 100 * 2 * 2 / 6),
        ("red and red and blue", "red red red", 100 * 2 * 2 / 8),
        ("mayor's cousin", "mayors cousin", 100),
        ("well-known", "well known", 0),
        ("velvet kettles", "the", 0),
        ("velvet kettles", "", 0),
        # Articles go as words, not as parts of words.
        ("anther", "ther", 0),
    ],
)
def test_success_is_token_f1_in_per_cent(answer: str, response: str, per_cent: float) -> None:
    assert success(response, case(answer)) == pytest.approx(per_cent)


def test_the_probe_takes_this_files_functions() -> None:
    assert TASKS["r2"].probe.success is success
    assert TASKS["r2"].probe.most_steps is most_steps

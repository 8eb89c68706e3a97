import pytest

from headprobe.tasks import TASKS
from headprobe.tasks._task import twice_the_answer
from headprobe.tasks.reasoning import (
    reference_max_new_tokens,
    reference_score,
    score,
)
from tests._support.answered import case


@pytest.mark.parametrize(("answer_tokens", "most"), [(1, 17), (16, 32), (17, 34), (200, 400)])
def test_a_response_has_twice_the_answers_tokens_and_at_least_16_more(
    answer_tokens: int, most: int
) -> None:
    assert twice_the_answer(case("x", answer_tokens)) == most
    assert reference_max_new_tokens(case("x", answer_tokens)) == answer_tokens


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
def test_the_reference_is_token_f1_of_the_whole_response(
    answer: str, response: str, per_cent: float
) -> None:
    assert reference_score(response, case(answer)) == pytest.approx(per_cent)


def test_success_is_the_f1_of_the_part_that_gives_the_answer() -> None:
    asked = case("velvet kettles", wrong_answer="tin drums")
    assert score("The person who is fond of tea likes velvet kettles best.", asked) == 100
    assert score("He likes velvet mirrors.", asked) == 50
    assert score("velvet", asked) == pytest.approx(100 * 2 / 3)
    assert score("He likes tin drums.", asked) == 0
    assert score("Not tin drums but velvet kettles.", asked) == 0


def test_the_reference_cuts_off_at_the_answers_tokens() -> None:
    reference = TASKS["r2"].counting("reference").probe
    assert reference.max_new_tokens is reference_max_new_tokens
    assert reference.score is reference_score
    assert (reference.steps, TASKS["r2"].probe.steps) == ("reference", "aligned")
    assert not TASKS["r2"].probe.counts_all_steps

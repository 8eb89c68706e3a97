import pytest

from headprobe.prompts.case import Case
from headprobe.tasks import ACCEPTED_ABOVE, TASKS
from headprobe.tasks.retrieval import most_steps, success


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


@pytest.mark.parametrize("answer_tokens", [1, 200])
def test_fifty_steps_are_watched_whatever_the_answer(answer_tokens: int) -> None:
    assert most_steps(case("x", answer_tokens)) == 50


# ROUGE-1 recall by hand: words of the answer that the response has, over the answer's words.
@pytest.mark.parametrize(
    ("answer", "response", "per_cent"),
    [
        ("eat a sandwich in the park", "eat a sandwich in the park", 100),
        ("eat a sandwich in the park", "You should eat a big sandwich in the old park!", 100),
        ("eat a sandwich in the park", "a park", 100 * 2 / 6),
        ("eat a sandwich in the park", "park park park park", 100 * 1 / 6),
        ("the cat and the dog", "the the the", 100 * 2 / 5),
        ("Velvet Kettles", "velvet KETTLES.", 100),
        # The stemmer makes inflected words of more than three letters equal.
        ("walking dogs", "he walked his dogs", 100),
        ("91 coins", "90 coins", 50),
        ("91 coins", "", 0),
        ("公园里吃", "在公园里吃三明治", 100),
        ("公园里吃", "公园", 50),
        ("Красный дом", "Это красный дом.", 100),
        ("Красный дом", "Синий дом", 50),
    ],
)
def test_success_is_rouge_1_recall_in_per_cent(answer: str, response: str, per_cent: float) -> None:
    assert success(response, case(answer)) == pytest.approx(per_cent)


def test_exactly_half_the_words_are_not_accepted() -> None:
    assert not success("90 coins", case("91 coins")) > ACCEPTED_ABOVE
    assert success("91 gold", case("91 coins gold")) > ACCEPTED_ABOVE


def test_the_probe_takes_this_files_functions() -> None:
    assert TASKS["retrieval"].probe.success is success
    assert TASKS["retrieval"].probe.most_steps is most_steps

import pytest

from headprobe.tasks import PASSED_ABOVE, TASKS
from headprobe.tasks.retrieval import max_new_tokens, reference_score, score
from tests._support.answered import case


@pytest.mark.parametrize("answer_tokens", [1, 200])
def test_fifty_steps_are_watched_whatever_the_answer(answer_tokens: int) -> None:
    assert max_new_tokens(case("x", answer_tokens)) == 50


# ROUGE-1 recall by hand: words of the answer that the response has, over the answer's words,
# articles left out.
@pytest.mark.parametrize(
    ("answer", "response", "per_cent"),
    [
        ("eat a sandwich in the park", "eat a sandwich in the park", 100),
        ("eat a sandwich in the park", "You should eat a big sandwich in the old park!", 100),
        ("eat a sandwich in the park", "a park", 100 * 1 / 4),
        ("eat a sandwich in the park", "park park park park", 100 * 1 / 4),
        ("the cat and the dog", "dog dog dog", 100 * 1 / 3),
        ("Velvet Kettles", "velvet KETTLES.", 100),
        ("walking dogs", "he walked his dogs", 50),
        ("91 coins", "90 coins", 50),
        ("91 coins", "", 0),
        ("公园里吃", "在公园里吃三明治", 100),
        ("公园里吃", "公园", 50),
        ("早上7点在图书馆门口见面", "7", 100 / 12),
        ("林安娜。", "林安娜", 100),
        ("Красный дом", "Это красный дом.", 100),
        ("Красный дом", "Синий дом", 50),
    ],
)
def test_the_reference_is_rouge_1_recall_in_per_cent(
    answer: str, response: str, per_cent: float
) -> None:
    assert reference_score(response, case(answer)) == pytest.approx(per_cent)


@pytest.mark.parametrize(
    ("answer", "response", "per_cent"),
    [
        ("eat a sandwich in the park", "You should eat a sandwich in the old park!", 100 * 3 / 4),
        ("eat a sandwich in the park", "a park", 100 * 1 / 4),
        # Words of a real model's wrong answers, of which three of five stand somewhere in it.
        (
            "in the shadow of the town pump",
            "She stands in the middle of the room, surrounded by the people of the town.",
            100 * 2 / 5,
        ),
        ("in the shadow of the town pump", "In the shadow of the town pump, he said.", 100),
        ("公园里吃", "他在公司的花园里,吃了饭", 100 * 3 / 4),
        ("在公园里吃", "公司的人在家里说:花园没有,先吃饭", 100 * 2 / 5),
        ("林安娜。", "答案是林安娜", 100),
        ("早上7点在图书馆门口见面", "7", 100 / 12),
    ],
)
def test_success_is_the_recall_of_the_part_that_gives_the_answer(
    answer: str, response: str, per_cent: float
) -> None:
    assert score(response, case(answer)) == pytest.approx(per_cent)
    assert score(response, case(answer)) <= reference_score(response, case(answer))


def test_a_response_that_names_the_wrong_answer_scores_0() -> None:
    asked = case("in the park", wrong_answer="at the mill")
    assert score("He sits in the park", asked) == 100
    assert score("He sits in the park, not at the mill", asked) == 0
    assert reference_score("He sits in the park, not at the mill", asked) == 100


def test_exactly_half_the_words_do_not_pass() -> None:
    assert not score("90 coins", case("91 coins")) > PASSED_ABOVE
    assert score("91 gold", case("91 coins gold")) > PASSED_ABOVE


def test_the_reference_takes_the_same_steps_and_does_not_look_for_the_wrong_answer() -> None:
    probe = TASKS["retrieval"].probe
    assert (probe.score, probe.max_new_tokens) == (score, max_new_tokens)
    reference = probe.counting("reference")
    assert (reference.score, reference.max_new_tokens) == (reference_score, max_new_tokens)
    assert probe.counts_all_steps

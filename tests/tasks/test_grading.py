from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from headprobe.tasks.grading import (
    align,
    answer_steps,
    exact_match,
    f1,
    failure_kind,
    names_wrong,
    recall,
    words,
)


@pytest.mark.parametrize(
    ("response", "answers", "exact", "overlap", "found"),
    [
        ("velvet kettles", ["velvet kettles"], 100, 100, 100),
        ("The velvet, kettles!", ["velvet kettles"], 100, 100, 100),
        ("It is the velvet kettles.", ["velvet kettles"], 0, 100 * 4 / 6, 100),
        ("velvet", ["velvet kettles"], 0, 100 * 2 / 3, 50),
        ("velvet velvet", ["velvet kettles"], 0, 50, 50),
        ("", ["velvet kettles"], 0, 0, 0),
        # Each metric takes the answer that fits best by it.
        ("red kettles", ["red", "blue kettles and red clocks"], 0, 100 * 2 / 3, 100),
        ("blue", ["red", "blue"], 100, 100, 100),
        # A choice that happens to be an article is an answer.
        ("A.", ["A"], 100, 100, 100),
        ("B", ["A"], 0, 0, 0),
        ("", ["A"], 0, 0, 0),
    ],
)
def test_answers_are_graded_by_words(
    response: str, answers: list[str], exact: float, overlap: float, found: float
) -> None:
    assert exact_match(response, answers) == exact
    assert f1(response, answers) == pytest.approx(overlap)
    assert recall(response, answers) == pytest.approx(found)


@pytest.mark.parametrize("metric", [exact_match, f1, recall])
def test_grades_are_per_cent(metric: Callable[[str, Sequence[str]], float]) -> None:
    assert metric("three of five words", ["three of five words"]) == 100


WORDS = ["tin", "drum", "Drum", "velvet", "kettles", "42", "mill"]


@given(st.lists(st.sampled_from(WORDS), max_size=9), st.lists(st.sampled_from(WORDS), min_size=1))
def test_recall_is_rouge_1_recall_without_stemming(said: list[str], wanted: list[str]) -> None:
    response, answer = " ".join(said) + ".", " ".join(wanted)
    rouge = RougeScorer(["rouge1"], use_stemmer=False).score(answer, response)["rouge1"]
    assert recall(response, [answer]) == pytest.approx(100 * rouge.recall)
    # ROUGE-1's F-measure is token F1.
    assert f1(response, [answer]) == pytest.approx(100 * rouge.fmeasure)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The tin drum", ["tin", "drum"]),
        ("A", ["a"]),
        ("l'as-tu vu, the été", ["lastu", "vu", "the", "été"]),
        ("Ada\u2019s half\u2010built boat", ["adas", "halfbuilt", "boat"]),
        ("well\u2014known\u2026 yes", ["well", "known", "yes"]),
        ("3,000 (three)", ["3000", "three"]),
        ("\uff21\uff22\uff23 \uff11\uff12", ["abc", "12"]),
        ("ﬁnal Straße", ["final", "strasse"]),
        ("cafe\u0301", ["café"]),
        ("林安娜。", ["林", "安", "娜"]),
        ("早上7点见", ["早", "上", "7", "点", "见"]),
        ("カフェ", ["カ", "フ", "ェ"]),
        ("서울에", ["서", "울", "에"]),
        ("ไทย", ["ไ", "ท", "ย"]),
        ("Красный дом!", ["красный", "дом"]),
        ("नमस्ते दुनिया।", ["नमस्ते", "दुनिया"]),
        ("السلام، عليكم", ["السلام", "عليكم"]),
        ("  \n ... ", []),
    ],
)
def test_texts_of_every_script_are_split_into_words(text: str, expected: list[str]) -> None:
    assert [word.text for word in words(text)] == expected


@given(st.text(max_size=40))
def test_words_stand_where_they_say_one_after_the_other(text: str) -> None:
    end = 0
    for word in words(text):
        assert end <= word.start < word.end <= len(text)
        assert word.text
        end = word.end


@pytest.mark.parametrize(
    ("response", "answer", "part", "overlap"),
    [
        ("The person who binds books is Bohumil.", "bohumil", "Bohumil", 100),
        ("tin drums", "the tin drums", "tin drums", 100),
        ("drums, tin drums and tin drums", "tin drums", "tin drums", 100),
        ("It is plum dumplings", "sour plum dumplings", "is plum dumplings", 100 * 2 / 3),
        ("答案是林安娜女士", "林安娜。", "林安娜", 100),
        ("Это большой красный дом.", "Красный дом", "красный дом", 100),
        ("dumplings", "sour plum dumplings", "dumplings", 50),
    ],
)
def test_the_answer_is_found_in_the_response(
    response: str, answer: str, part: str, overlap: float
) -> None:
    found = align(response, answer)
    assert found is not None
    assert response[found.start : found.end] == part
    assert found.f1 == pytest.approx(overlap)


@pytest.mark.parametrize("response", ["", "...", "no such thing"])
def test_where_no_word_of_the_answer_is_said_nothing_is_found(response: str) -> None:
    assert align(response, "tin drums") is None


@pytest.mark.parametrize(
    ("response", "answer", "wrong", "named"),
    [
        ("tin drums", "tin drums", "velvet kettles", False),
        ("velvet kettles", "tin drums", "velvet kettles", True),
        ("tin drums, no velvet kettles", "tin drums", "velvet kettles", True),
        ("kettles of velvet", "tin drums", "velvet kettles", False),
        # One of the two has the other in it.
        ("green apples", "green apples", "apples", False),
        ("green apples", "apples", "green apples", True),
        ("不是大理\uff0c是拉萨", "拉萨", "大理", True),
        ("tin drums", "tin drums", None, False),
    ],
)
def test_the_wrong_answer_counts_outside_of_the_right_one(
    response: str, answer: str, wrong: str | None, named: bool
) -> None:
    assert names_wrong(response, wrong, align(response, answer)) is named


def steps(pieces: list[bytes], answer: str) -> tuple[int, int]:
    """The steps of a response whose tokens are these bytes."""
    return answer_steps(
        range(len(pieces)),
        answer,
        lambda ids: b"".join(pieces[n] for n in ids).decode("utf-8", "replace"),
    )


def test_the_steps_that_write_the_answer_are_found() -> None:
    said = [b"The", b" person", b" is", b" Bo", b"hum", b"il", b".", b"\n"]
    assert steps(said, "Bohumil") == (3, 6)
    assert steps([b"Bo", b"hum", b"il"], "bohumil") == (0, 3)
    assert steps([b"tin", b" dr", b"ums", b"<eos>"], "tin drums<eos>") == (0, 4)
    assert steps(said, "tin drums") == (0, 0)
    assert steps([], "tin drums") == (0, 0)


def test_a_character_of_several_tokens_is_written_by_all_of_them() -> None:
    one, two, three = ("林".encode()[n : n + 1] for n in range(3))
    said = ["是".encode(), one, two, three, "安娜".encode(), "。".encode()]
    assert steps(said, "林安娜") == (1, 5)
    assert steps([*said[:1], *said[4:]], "安娜") == (1, 2)


@pytest.mark.parametrize(
    ("response", "cut_off", "kind"),
    [
        ("  ...", False, "nothing said"),
        ("It is velvet kettles.", False, "wrong answer named"),
        ("I'm sorry, I cannot tell.", False, "refused"),
        ("The text does not mention it.", False, "refused"),
        ("文中没有提到。", False, "refused"),
        ("The person who", True, "cut off"),
        ("Lisbon", False, "other"),
    ],
)
def test_failed_responses_are_named_by_kind(response: str, cut_off: bool, kind: str) -> None:
    assert failure_kind(response, "tin drums", "velvet kettles", cut_off=cut_off) == kind

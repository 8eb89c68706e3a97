from __future__ import annotations

import itertools
import warnings
from pathlib import Path
from typing import Any

import pytest

from headprobe.errors import HeadprobeWarning, UsageError
from headprobe.nano.tokenizer import build_tokenizer
from headprobe.prompts.build import hide_needles
from headprobe.prompts.haystacks import sentences
from headprobe.prompts.leaks import ProseIndex, find_leaks
from headprobe.prompts.needles import Needle, parse_needle
from headprobe.prompts.style import PromptWriter

PROSE = ["The moon rose.", "Rain fell on the road.", "The wind was cold."]


def needle(
    text: str = "Noah likes red kites.", watched: str = "red kites", **fields: Any
) -> Needle:
    own = {"needle": text, "real_needle": watched, "question": "What does he like?"}
    return parse_needle(own | fields)


def places(one: Needle, prose: list[str]) -> list[str]:
    index = ProseIndex(prose, list(range(0, 10 * len(prose) + 1, 10)))
    return [leak.place for leak in find_leaks({0: one}, index)]


@pytest.mark.parametrize(
    ("sentence", "found"),
    [
        ("He flew RED kites!", True),
        ("He flew “red\u00a0kites”.", True),
        ("He flew redkites.", False),
        ("He flew inbred kites.", False),
        ("He flew a red kite.", False),
    ],
)
def test_the_watched_text_is_found_in_prose_as_words_however_it_is_spelled(
    sentence: str, found: bool
) -> None:
    place = f"sentence 3 of the haystack, {sentence!r}"
    assert places(needle(), [*PROSE[:2], sentence]) == ([place] if found else [])


def test_a_text_over_two_sentences_is_found() -> None:
    one = needle("It is so. And that is all.", "so. And that")
    assert places(one, ["Is it so?", "It is so.", "And that is it."]) != []


def test_chinese_needs_no_spaces_around() -> None:
    one = needle("公园里有一只白鹭。", "白鹭", question="公园里有什么？")  # noqa: RUF001
    assert places(one, ["那只白鹭飞走了。"]) == ["sentence 1 of the haystack, '那只白鹭飞走了。'"]


def test_an_answer_in_the_question_or_in_the_rest_of_the_needle_is_found() -> None:
    assert places(needle(question="Does he like red kites?"), PROSE) == ["its question"]
    twice = needle("Noah likes red kites, only red kites.")
    assert places(twice, PROSE) == ["the rest of the needle"]
    other = needle(answer="cold wind")
    assert places(other, ["A cold wind, said he."]) != []


def prompts(prose: list[str], lengths: list[int]) -> None:
    hide_needles(
        [needle(), needle("Ivy likes blue boats.", "blue boats")],
        sentences=itertools.cycle(prose),
        writer=PromptWriter(build_tokenizer()),
        lengths=lengths,
        depths=[0.0, 100.0],
    )


def test_prompts_that_reach_the_text_are_counted_and_the_place_is_told() -> None:
    prose = [*PROSE * 8, "He flew red kites there."]
    with warnings.catch_warnings(action="error"):
        prompts(prose, [100])
    told = "2 of 8 prompts hold .* of needle 0 'red kites' stands in sentence 25 of the haystack"
    with pytest.warns(HeadprobeWarning, match=told):
        prompts(prose, [100, 300])


@pytest.mark.parametrize(
    ("copy", "place"),
    [
        ("Noah likes RED kites!", "sentence 25 of the haystack"),
        ("They say that Noah likes red kites too.", "sentence 25 of the haystack"),
    ],
)
def test_a_copy_of_the_needle_is_refused_where_a_prompt_reaches_it(copy: str, place: str) -> None:
    prose = [*PROSE * 8, copy]
    with warnings.catch_warnings(action="error"):
        prompts(prose, [100])
    told = f"2 of 8 prompts hold the needle .* of needle 0 'noah likes red kites' stands in {place}"
    with pytest.raises(UsageError, match=told):
        prompts(prose, [100, 300])


def test_a_watched_sentence_is_a_copy_and_a_few_words_or_an_answer_are_none() -> None:
    def copies(one: Needle, sentence: str) -> list[bool]:
        return [leak.is_copy for leak in find_leaks({0: one}, ProseIndex([sentence], [0, 9]))]

    long = needle("Go there and eat pears under the old bridge.", "eat pears under the old bridge")
    assert copies(long, "We eat pears under the old bridge.") == [True]
    assert copies(needle(), "He flew red kites.") == [False]
    told = needle(answer="it is a very long answer")
    assert copies(told, "He said: it is a very long answer.") == [False]
    chinese = needle("罗婆婆把账本埋在第三棵柿子树下。", "第三棵柿子树下")
    assert copies(chinese, "他睡在第三棵柿子树下。") == [True]


@pytest.mark.parametrize("name", ["needle.txt", "rows.jsonl"])
def test_a_haystack_of_any_kind_that_holds_the_needle_is_refused(tmp_path: Path, name: str) -> None:
    text = (
        '{"text": "Rain fell. Noah likes red kites."}'
        if name == "rows.jsonl"
        else ("Rain fell. Noah likes red kites.")
    )
    (tmp_path / name).write_text(text)
    prose = list(itertools.islice(sentences(str(tmp_path), seed=0), 40))
    with pytest.raises(UsageError, match="sentence 2 of the haystack, 'Noah likes red kites"):
        prompts(prose, [100])

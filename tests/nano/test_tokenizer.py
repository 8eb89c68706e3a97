import random
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from headprobe.nano.tokenizer import BOS, EOS, PAD, build_tokenizer
from headprobe.prompts.noise import KINDS, filler, words
from headprobe.prompts.template import INSTRUCTION

TOKENIZER = build_tokenizer()


def pieces(text: str) -> list[str]:
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    return list(TOKENIZER.convert_ids_to_tokens(ids))


def by_eye(text: str) -> list[str]:
    """One piece a word with its space, one a mark, one a line break."""
    return [part.replace(" ", "▁") for part in re.findall(r" ?\w+|[^\w ]", text)]


def test_every_word_of_the_language_is_one_piece() -> None:
    rng = random.Random(0)
    for _ in range(300):
        sentence = " " + filler(rng)
        assert pieces(sentence) == by_eye(sentence)
    for kind in KINDS:
        for word in (*words(kind, "train"), *words(kind, "held_out")):
            assert pieces(f" {word}") == [f"▁{word}"]
    for number in range(1, 100):
        assert pieces(f" {number}") == [f"▁{number}"]


def test_the_prompts_frame_is_one_piece_a_word() -> None:
    text = " The moon rose." + INSTRUCTION.format(question="What does Noah like?")
    inside = pieces(text)
    assert inside[inside.index("\n") :] == by_eye(text[text.index("\n") :])


@given(st.text(alphabet=st.characters(exclude_characters="\u2581", codec="utf-8")))
@example("a  b\t\r\n\n c\u00a0d")
@example("naïve 日本 🦊\u200d\x00")
def test_any_text_comes_back_but_for_one_leading_space(text: str) -> None:
    ids = TOKENIZER(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert TOKENIZER.decode(ids) == text.removeprefix(" ")


def test_a_text_starts_with_bos_and_has_no_other_special_token() -> None:
    ids = TOKENIZER("The moon rose.\nAnswer: Noah")["input_ids"]
    assert ids[0] == TOKENIZER.bos_token_id
    assert set(TOKENIZER.all_special_ids).isdisjoint(ids[1:])
    assert TOKENIZER("")["input_ids"] == [TOKENIZER.bos_token_id]


def test_the_special_tokens_are_three_and_decoding_can_skip_them() -> None:
    assert TOKENIZER.convert_tokens_to_ids([PAD, BOS, EOS]) == [0, 1, 2]
    assert set(TOKENIZER.all_special_ids) == {0, 1, 2}
    ids = [1, *TOKENIZER(" Noah", add_special_tokens=False)["input_ids"], 2, 0]
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == "Noah"


@pytest.mark.parametrize("line_break", ["\n", "x\n", "\n\n", "\r\n"])
def test_a_line_break_is_a_token_of_its_own(line_break: str) -> None:
    assert pieces(f"Noah{line_break}Based").count("\n") == line_break.count("\n")


def test_pieces_are_distinct_and_few_enough_for_a_small_model() -> None:
    vocabulary = TOKENIZER.get_vocab()
    assert sorted(vocabulary.values()) == list(range(len(TOKENIZER)))
    assert len(TOKENIZER) < 1500


def test_saved_it_is_opened_by_transformers_alone(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    opened = AutoTokenizer.from_pretrained(tmp_path)
    text = 'Noah likes velvet kettles. "日本"\nBased on the content'
    assert opened(text)["input_ids"] == TOKENIZER(text)["input_ids"]
    assert opened.decode(opened(text)["input_ids"]) == TOKENIZER.decode(
        TOKENIZER(text)["input_ids"]
    )
    assert (opened.bos_token, opened.eos_token, opened.pad_token) == (BOS, EOS, PAD)

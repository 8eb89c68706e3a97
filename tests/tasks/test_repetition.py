from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from transformers import AddedToken, AutoTokenizer

from headprobe.errors import UsageError
from headprobe.models.bundled import bundled
from headprobe.prompts.case import Case
from headprobe.tasks import TASKS
from headprobe.tasks.repetition import BLOCKS, REPEATS, SHORTEST_BLOCK, draw


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(bundled("models", "nano"))


def drawn(
    tokenizer: Any, *lengths: int, seed: int = 0, max_context: int | None = None
) -> list[Case]:
    return draw(tokenizer, lengths=list(lengths) or None, max_context=max_context, seed=seed)


def block(case: Case) -> tuple[int, ...]:
    return case.input_ids[case.span]


def test_a_case_is_bos_and_four_times_a_block_of_different_tokens(tokenizer: Any) -> None:
    cases = drawn(tokenizer, 131)
    assert [case.case_id for case in cases] == [case.needle_id for case in cases]
    assert len(cases) == BLOCKS == len({block(case) for case in cases})
    for case in cases:
        assert case.input_ids == (tokenizer.bos_token_id, *(REPEATS * block(case)))
        assert len(set(block(case))) == len(block(case)) == 32
        # The longest that whole repeats allow in 131 tokens.
        assert case.length == 129
        assert (case.position, case.depth, case.answer_ids) == (1, 0.0, ())


def test_special_and_added_tokens_are_not_drawn(tokenizer: Any) -> None:
    wider = copy.deepcopy(tokenizer)
    wider.add_tokens(["brandnew", AddedToken("<tool>", special=True)])
    words = len(tokenizer.get_vocab()) - len(tokenizer.all_special_ids)
    for case in drawn(wider, 1 + REPEATS * words):
        # All that there are, each once.
        assert set(block(case)) == set(range(len(tokenizer))) - set(tokenizer.all_special_ids)


def test_a_tokenizer_without_bos_gets_none(tokenizer: Any) -> None:
    bare = copy.deepcopy(tokenizer)
    bare.bos_token = None
    for case in drawn(bare, 128):
        assert case.input_ids == REPEATS * block(case)
        assert (case.position, case.span_start, case.length) == (0, 0, 128)


def test_the_seed_decides_what_is_drawn(tokenizer: Any) -> None:
    one, again, other = (drawn(tokenizer, 129, seed=seed) for seed in (1, 1, 2))
    assert [case.input_ids for case in one] == [case.input_ids for case in again]
    assert not {block(case) for case in one} & {block(case) for case in other}


def test_tokens_of_the_whole_vocabulary_are_drawn_about_equally_often(tokenizer: Any) -> None:
    cases = [case for seed in range(30) for case in drawn(tokenizer, 1201, seed=seed)]
    counts = np.bincount([token for case in cases for token in block(case)])[3:]
    expected = len(cases) * 300 / len(counts)
    # Six standard deviations of a binomial.
    assert np.abs(counts - expected).max() < 6 * expected**0.5


def test_a_block_of_one_number_begins_alike_at_all_lengths(tokenizer: Any) -> None:
    cases = drawn(tokenizer, 257, 129, 260)
    assert [case.length for case in cases] == [129, 257] * BLOCKS
    for short, long in zip(cases[::2], cases[1::2], strict=True):
        assert short.needle_id == long.needle_id
        assert block(long)[:32] == block(short)


def test_by_default_a_case_is_as_long_as_window_and_vocabulary_allow(tokenizer: Any) -> None:
    assert {case.length for case in drawn(tokenizer, max_context=2112)} == {2109}
    assert {len(block(case)) for case in drawn(tokenizer)} == {1092}
    larger = copy.deepcopy(tokenizer)
    larger.get_vocab = lambda: {str(i): i for i in range(4000)}
    assert {case.length for case in drawn(larger)} == {10_001}
    assert {case.length for case in drawn(larger, max_context=131_072)} == {10_001}


@pytest.mark.parametrize(
    ("lengths", "max_context", "message"),
    [
        ((64, 129), None, "lengths=64: too short .* at least 65"),
        ((5000,), None, "5000 tokens takes 1249 different tokens and the vocabulary has 1092; .*"),
        ((), 50, "lengths=50: too short"),
    ],
)
def test_a_length_that_cannot_be_is_one_clear_line(
    tokenizer: Any, lengths: tuple[int, ...], max_context: int | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        drawn(tokenizer, *lengths, max_context=max_context)
    assert len(drawn(tokenizer, 1 + REPEATS * SHORTEST_BLOCK)) == BLOCKS


def test_the_queries_of_the_repeats_are_watched_and_nothing_is_answered(tokenizer: Any) -> None:
    probe, case = TASKS["razor"].probe, drawn(tokenizer, 129)[0]
    assert probe.first_query(case) == 33
    assert probe.max_new_tokens(case) == 0
    assert probe.score("", case) == 100


def test_other_probes_watch_from_the_token_that_chooses_the_answer(tokenizer: Any) -> None:
    assert TASKS["retrieval"].probe.first_query(drawn(tokenizer, 129)[0]) == 128

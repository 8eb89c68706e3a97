from __future__ import annotations

from dataclasses import replace

import pytest

from headprobe.runs.drafts import drafts
from tests._support.random_rows import case_of

# A needle of the tokens 50 to 57 whose words "53 54" open the prompt too; the answer is token 1.
PROMPT = [53, 54, 60, 61, 62, 63, *range(50, 58), 70, 71]
CASE = case_of(PROMPT, 6, 14)


def test_an_answer_begins_as_expected_or_as_the_needle_or_its_sentence_does() -> None:
    assert drafts(CASE, [], most=50) == [[1], [*range(50, 58), 70]]
    sentence = replace(CASE, span_start=9)
    assert drafts(sentence, [], most=50) == [[1], [*range(50, 58), 70], [*range(53, 58)]]
    assert drafts(CASE, [], most=3) == [[1], [50, 51, 52]]


@pytest.mark.parametrize(
    ("generated", "expected"),
    [
        # To the needle's end, and what stands right after it.
        ([9, 55], [[56, 57, 70]]),
        # What followed two tokens in the prompt, and where they stood last.
        ([62, 63], [[50, 51, 52, 53, 54, 55, 56, 57, 70, 71]]),
        ([53, 54], [[55, 56, 57, 70], [55, 56, 57, 70, 71, 53, 54]]),
        ([61], []),
        ([99], []),
    ],
)
def test_an_answer_goes_on_as_the_text_did(generated: list[int], expected: list[list[int]]) -> None:
    assert drafts(CASE, generated, most=50) == expected


def test_nothing_is_drafted_where_nothing_may_follow() -> None:
    assert drafts(CASE, [53], most=0) == []

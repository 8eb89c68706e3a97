from typing import Any

import pytest

from headprobe.prompts.case import Case, QuestionSpan


def invalid(**changes: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "case_id": 0,
        "needle_id": 0,
        "length": 6,
        "depth": 0.0,
        "position": 1,
        "input_ids": (1, 2, 3, 4, 5, 6),
        "span_start": 2,
        "span_end": 4,
        "answer": "x",
        "answer_ids": (9,),
        "question": QuestionSpan(start=4, end=5, blank_ids=(8,)),
    }
    return fields | changes


def test_the_span_cuts_the_watched_tokens_out_of_the_prompt() -> None:
    case = Case(**invalid())
    assert case.input_ids[case.span] == (3, 4)


@pytest.mark.parametrize(
    "changes",
    [
        {"length": 5},
        {"span_start": 4},
        {"span_end": 7},
        {"position": 3},
        {"position": -1},
        {"question": QuestionSpan(start=3, end=5, blank_ids=(8,))},
        {"question": QuestionSpan(start=5, end=5, blank_ids=(8,))},
        {"question": QuestionSpan(start=4, end=6, blank_ids=(8,))},
    ],
)
def test_a_case_that_contradicts_itself_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Case(**invalid(**changes))

"""A case of which only the answer matters."""

from __future__ import annotations

from headprobe.prompts.case import Case


def case(answer: str, answer_tokens: int = 3, wrong_answer: str | None = None) -> Case:
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
        wrong_answer=wrong_answer,
    )

"""The questions of an evaluation: a context, a question after it, and the right answers.

Questions are made of a probe's cases, or read from the user's own file.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from headprobe.errors import HeadprobeWarning, UsageError
from headprobe.files import json_digest
from headprobe.inputs import (
    LONGEST_CONTEXT,
    as_object,
    brief,
    fit_text,
    json_rows,
    spelled,
    text_field,
)
from headprobe.prompts.build import tokenize_needle
from headprobe.prompts.case import Case
from headprobe.prompts.needles import language_of, warn_of_repeats
from headprobe.prompts.spelling import normal_text
from headprobe.prompts.style import PromptWriter
from headprobe.prompts.template import QUESTIONS, fill_in
from headprobe.runs.draw import DrawnCases
from headprobe.tasks import PASSED_ABOVE, Probe

ANSWER_STEPS = 64
_QUESTION_FIELDS = ("question", "input")


@dataclass(frozen=True, eq=False, kw_only=True)
class Question:
    """One prompt with known answers: ``context_ids``, and after them ``question_ids``.

    Questions of one ``group`` are alike. The model answers in at most ``max_new_tokens`` tokens.
    ``passed`` says of a response whether the probe would pass it, where a probe asks.
    """

    question_id: int
    group: int
    context_ids: tuple[int, ...]
    question_ids: tuple[int, ...]
    answers: tuple[str, ...]
    max_new_tokens: int
    passed: Callable[[str], bool] | None = None

    def __post_init__(self) -> None:
        if not (
            self.context_ids and self.question_ids and self.answers and self.max_new_tokens > 0
        ):
            raise ValueError(
                "expected tokens of a context and of a question, an answer and a step, got "
                f"{len(self.context_ids)}, {len(self.question_ids)}, {len(self.answers)} and "
                f"{self.max_new_tokens}"
            )

    @cached_property
    def input_ids(self) -> tuple[int, ...]:
        """The tokens of the whole prompt."""
        return (*self.context_ids, *self.question_ids)

    @cached_property
    def key(self) -> str:
        """A digest of what the model is asked, whatever else is asked with it."""
        return json_digest([self.context_ids, self.question_ids, self.max_new_tokens])

    @property
    def draw_id(self) -> int:
        """A number of this question's own, for what is drawn at random for it."""
        return int(self.key, 16)


def questions_of(
    drawn: DrawnCases,
    probe: Probe,
    *,
    max_new_tokens: int | None = None,
) -> list[Question]:
    """Turn a probe's cases into questions, the cases of one needle into one group.

    Raises:
        ValueError: the cases ask nothing.
    """
    if drawn.writer is None:
        raise ValueError("expected cases that ask, got cases that are only read")
    drawn_needles = {case.needle_id for case in drawn.cases}
    asked = {n: len(tokenize_needle(drawn.needles[n], drawn.writer).tail) for n in drawn_needles}
    return [
        Question(
            question_id=case.case_id,
            group=case.needle_id,
            context_ids=case.input_ids[: -asked[case.needle_id]],
            question_ids=case.input_ids[-asked[case.needle_id] :],
            answers=(case.answer,),
            max_new_tokens=max_new_tokens or probe.max_new_tokens(case),
            passed=partial(_passed, probe, case),
        )
        for case in drawn.cases
    ]


def _passed(probe: Probe, case: Case, response: str) -> bool:
    return probe.score(response, case) > PASSED_ABOVE


def read_questions(
    path: Path,
    writer: PromptWriter,
    *,
    longest: int | None,
    limit: int | None = None,
    max_new_tokens: int | None = None,
) -> list[Question]:
    """Read questions from JSONL or a JSON array: ``context``, ``question`` and ``answers``.

    ``answers`` is a text, a number, or a list of them. ``input`` stands for ``question`` too, as in
    LongBench, whose summaries leave it empty: the answer prefix alone stands after the context
    then. The prompt is built as a task's prompts are. Where it is longer than ``longest`` tokens,
    the middle of its context goes, as LongBench has it. A question asked twice of one context
    counts once, a warning says how many are. Of more than ``limit`` questions the first are taken.

    Raises:
        UsageError: no such file, no question in it, or a row that cannot be used (it is named).
    """
    questions: list[Question] = []
    known: set[tuple[str, str]] = set()
    shortened = unasked = read = 0
    for place, row in json_rows(path, kind="question"):
        if len(questions) == limit:
            break
        read += 1
        try:
            context, question, answers = _parse(as_object(row))
            texts = normal_text(context), normal_text(question)
            if texts in known:
                continue
            known.add(texts)
            context_ids, question_ids = _prompt(context, question, writer)
            capacity = (longest or len(context_ids) + len(question_ids)) - len(question_ids)
            if capacity < 1:
                raise ValueError(f"the question takes more than the model's {longest} tokens")
        except ValueError as error:
            raise UsageError(f"{path}, {place}: {error}", path=path) from error
        shortened += len(context_ids) > capacity
        unasked += not question
        questions.append(
            Question(
                question_id=len(questions),
                group=len(questions),
                context_ids=_without_middle(context_ids, capacity),
                question_ids=question_ids,
                answers=answers,
                max_new_tokens=max_new_tokens or ANSWER_STEPS,
            )
        )
    if not questions:
        raise UsageError(f"{path} holds no question; write one JSON object a line", path=path)
    warn_of_repeats(path, "questions", read=read, distinct=len(questions))
    if unasked:
        warnings.warn(
            f"{unasked} of {len(questions)} rows ask nothing (empty `input`): after their contexts "
            "stands the answer prefix alone",
            HeadprobeWarning,
            stacklevel=2,
        )
    if shortened:
        warnings.warn(
            f"{shortened} of {len(questions)} prompts are longer than {longest} tokens: "
            "the middle of their contexts is left out",
            HeadprobeWarning,
            stacklevel=2,
        )
    return questions


def _parse(fields: Mapping[str, Any]) -> tuple[str, str, tuple[str, ...]]:
    context = text_field(fields, "context", longest=LONGEST_CONTEXT)
    return context, _question(fields), _answers(fields.get("answers"))


def _question(fields: Mapping[str, Any]) -> str:
    named = next((name for name in _QUESTION_FIELDS if name in fields), "question")
    if named == "input" and isinstance(fields[named], str) and not fields[named].strip():
        return ""
    return text_field(fields, named)


def _answers(answers: Any) -> tuple[str, ...]:
    listed = [spelled(one) for one in (answers if isinstance(answers, list) else [answers])]
    if not listed or not all(isinstance(one, str) and one.strip() for one in listed):
        raise ValueError(
            "expected a text, a number or a list of them in field 'answers', got " + brief(answers)
        )
    return tuple(fit_text(one, "field 'answers'") for one in listed)


def _prompt(
    context: str, question: str, writer: PromptWriter
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    language = language_of(question or context)
    encode, chat_affixes = writer.pieces.encode, writer.chat_affixes(language=language)
    instruction = chat_affixes.instruction
    asked = encode(
        fill_in(instruction, question)
        if question
        else instruction.removeprefix(QUESTIONS[language])
    )
    return (*chat_affixes.head, *encode(" " + context)), (*asked, *chat_affixes.tail)


def _without_middle(tokens: tuple[int, ...], capacity: int) -> tuple[int, ...]:
    if len(tokens) <= capacity:
        return tokens
    first = (capacity + 1) // 2
    return (*tokens[:first], *tokens[len(tokens) - (capacity - first) :])

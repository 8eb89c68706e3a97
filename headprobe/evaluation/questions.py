"""The questions of an evaluation: a context, a question after it, and the right answers.

Questions are made of a probe's cases, or read from the user's own file.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

from headprobe.errors import HeadprobeWarning, UsageError
from headprobe.evaluation.benchmarks.asking import Prompt, RowWriter, shorten
from headprobe.evaluation.benchmarks.rows import Row, read_rows
from headprobe.files import json_digest
from headprobe.prompts.build import tokenize_needle
from headprobe.prompts.case import Case
from headprobe.prompts.data_sets import is_of_hub
from headprobe.prompts.needles import language_of, warn_of_repeats
from headprobe.prompts.spelling import normal_text
from headprobe.prompts.style import PromptWriter
from headprobe.prompts.template import QUESTIONS, fill_in
from headprobe.runs.draw import ANSWER_RESERVE, DrawnCases, longest_prompt
from headprobe.runs.greedy import Stops
from headprobe.tasks import PASSED_ABOVE, Probe
from headprobe.tasks.grading import PASSED

ANSWER_STEPS = 64


@dataclass(frozen=True, eq=False, kw_only=True)
class Question:
    """One prompt with known answers: ``context_ids``, and after them ``question_ids``.

    Questions of one ``group`` are alike. The model answers in at most ``max_new_tokens`` tokens.

    Args:
        stops: where answers end: see ``GreedyRules``.
        metrics: what grades a response besides the metrics of all questions, 0 to 100, by name.
        row: the row that the question was made of, if it was read.
    """

    question_id: int
    group: int
    context_ids: tuple[int, ...]
    question_ids: tuple[int, ...]
    answers: tuple[str, ...]
    max_new_tokens: int
    stops: Stops = "line"
    metrics: Mapping[str, Callable[[str], float]] = field(default_factory=dict)
    row: Row | None = None

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
        asked = [self.context_ids, self.question_ids, self.max_new_tokens]
        return json_digest([*asked, *([] if self.stops == "line" else [self.stops])])

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
            metrics={PASSED: partial(_passed, probe, case)},
        )
        for case in drawn.cases
    ]


def _passed(probe: Probe, case: Case, response: str) -> float:
    return 100.0 * (probe.score(response, case) > PASSED_ABOVE)


def reserve_for(max_new_tokens: int | None) -> int:
    """Return the tokens that a prompt leaves to an answer of so many; ``None`` is the default."""
    return max(ANSWER_RESERVE, max_new_tokens or 0)


def read_questions(
    source: str | Path,
    writer: PromptWriter,
    *,
    max_context: int | None,
    limit: int | None = None,
    max_new_tokens: int | None = None,
) -> list[Question]:
    """Read questions from rows of any schema of ``benchmarks.rows``.

    The prompt is built as a task's prompts are; a row that brings its answer prefix is asked in its
    own words. Where a row asks nothing, the answer prefix alone stands after the context. Where a
    prompt and its answer take more than ``max_context`` tokens, the middle of its context goes. An
    answer has ``max_new_tokens``, else what its row says. A question asked twice of one context
    counts once, a warning says how many are. Of more than ``limit`` questions the first are taken.

    Raises:
        UsageError: no such file, no question in it, or a row that cannot be used (it is named).
        HeadprobeError: a data set of the hub cannot be loaded.
    """
    path = None if is_of_hub(source) else Path(source)
    style = "prefix" if writer.style == "shots" else writer.style
    own_words = RowWriter(writer.tokenizer, style=style)
    questions: list[Question] = []
    known: set[tuple[str, str]] = set()
    groups: dict[str, int] = {}
    shortened = unasked = read = 0
    for place, row in read_rows(source):
        if len(questions) == limit:
            break
        read += 1
        texts = normal_text(row.context), normal_text(row.question)
        if texts in known:
            continue
        known.add(texts)
        steps = max_new_tokens or row.max_new_tokens or ANSWER_STEPS
        longest = longest_prompt(max_context, answer_reserve=reserve_for(steps))
        try:
            prompt = _prompt(row, writer) if row.answer_prefix is None else own_words.write(row)
            context_ids, question_ids = shorten(prompt, longest, "middle of context")
        except ValueError as error:
            raise UsageError(f"{source}, {place}: {error}", path=path) from error
        shortened += len(context_ids) < len(prompt[0])
        unasked += not row.question.strip()
        questions.append(
            Question(
                question_id=len(questions),
                group=groups.setdefault(texts[0], len(groups)),
                context_ids=context_ids,
                question_ids=question_ids,
                answers=row.answers,
                max_new_tokens=steps,
                row=row,
            )
        )
    if not questions:
        raise UsageError(f"{source} holds no question; write one JSON object a line", path=path)
    warn_of_repeats(source, "questions", read=read, distinct=len(questions))
    if unasked:
        warnings.warn(
            f"{unasked} of {len(questions)} rows ask nothing: after their contexts stands the "
            "answer prefix alone",
            HeadprobeWarning,
            stacklevel=2,
        )
    part = "with room for answers, the middle of their contexts"
    warn_of_shortened(shortened, questions, max_context, part)
    return questions


def warn_of_shortened(
    shortened: int, questions: Sequence[Question], longest: int | None, part: str
) -> None:
    """Warn if prompts were too long, and say which ``part`` of them was left out."""
    if shortened:
        warnings.warn(
            f"{shortened} of {len(questions)} prompts are longer than {longest} tokens: "
            f"{part} is left out",
            HeadprobeWarning,
            stacklevel=3,
        )


def _prompt(row: Row, writer: PromptWriter) -> Prompt:
    language = language_of(row.question or row.context)
    encode, chat_affixes = writer.pieces.encode, writer.chat_affixes(language=language)
    instruction = chat_affixes.instruction
    asked = encode(
        fill_in(instruction, row.question)
        if row.question
        else instruction.removeprefix(QUESTIONS[language])
    )
    return (*chat_affixes.head, *encode(" " + row.context)), (*asked, *chat_affixes.tail)

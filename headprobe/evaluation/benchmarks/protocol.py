"""A benchmark's protocol: all that decides its number, beside the model and the rows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from headprobe.evaluation.benchmarks.metrics import METRICS
from headprobe.evaluation.benchmarks.rows import Row

if TYPE_CHECKING:
    from headprobe.runs.greedy import Stops

Style = Literal["raw", "chat", "prefix"]
Truncation = Literal["middle", "middle of context", "end of context"]
"""The part that too long a prompt loses: its middle as LongBench has it, the middle of its context,
or the end of its context."""


SCORE = "score"
"""The grade of each question by its own set's first metric, where sets have different ones."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """The way in which a set's rows are asked, the model answers, and the answers are graded.

    Args:
        name: as one types it, such as ``longbench:multifieldqa_zh``.
        context: the text that is read before the question, with ``{context}`` in it.
        question: the text after it, with ``{question}`` in it; where it has ``{choices}`` too, the
            options stand there, else they end the question.
        answer_prefix: the text that the answer follows, with the white space before it.
        style: where the answer prefix stands: see ``prompts.style``.
        max_new_tokens: the most tokens of an answer.
        stops: where answers end: see ``GreedyRules``.
        truncation: the part that too long a prompt loses.
        metrics: names of ``metrics.METRICS``; strategies are compared by the first.
        first_line: whether only the first line of a response is graded.
        labels: the classes to tell apart, where rows name none; not those that a question names.
        asked_for: names and patterns; ``{name}`` in the context stands for what the pattern finds
            in the question, in lower case.
    """

    name: str
    context: str = "{context}"
    question: str = "{question}"
    answer_prefix: str = ""
    style: Style
    max_new_tokens: int
    stops: Stops = "end"
    truncation: Truncation
    metrics: tuple[str, ...]
    first_line: bool = False
    labels: tuple[str, ...] = ()
    asked_for: tuple[tuple[str, str], ...] = ()

    def texts(self, row: Row) -> tuple[str, str, str]:
        """Write a row's context, question and answer prefix.

        A row that brings an answer prefix is in its benchmark's words already.

        Raises:
            ValueError: the question does not name what the context is to say of it.
        """
        if row.answer_prefix is not None:
            return row.context, row.question, row.answer_prefix
        context, question, asked = self.context, self.question, row.question
        for name, pattern in self.asked_for:
            found = re.search(pattern, asked)
            if found is None:
                raise ValueError(f"the question names no {name}, as set {self.name} does")
            context = context.replace(f"{{{name}}}", found[1].lower(), 1)
        if "{choices}" in question:
            asked = asked.removesuffix(row.choices)
            question = question.replace("{choices}", row.choices, 1)
        return (
            context.replace("{context}", row.context, 1),
            question.replace("{question}", asked, 1),
            self.answer_prefix,
        )

    def grade(self, metric: str, row: Row, response: str) -> float:
        """Grade a response by one of the metrics, in per cent."""
        if self.first_line:
            response = response.lstrip("\n").split("\n")[0]
        return METRICS[metric](response, row.answers, self.classes(row))

    def classes(self, row: Row) -> Sequence[str]:
        """Return the classes to tell apart: the row's, else those that its question leaves."""
        asked = row.question.lower()
        return row.all_classes or [label for label in self.labels if label not in asked]

    def answer_tokens(self, row: Row) -> int:
        """Return the most tokens of an answer: the row's own number, if it brings one."""
        return row.max_new_tokens or self.max_new_tokens

    def to_json(self) -> dict[str, Any]:
        """Return the fields that a plan records."""
        told = {**asdict(self), "metrics": list(self.metrics), "labels": list(self.labels)}
        asked_for = [list(pair) for pair in told.pop("asked_for")]
        return {**told, "asked_for": asked_for} if asked_for else told


OWN_WORDS = Protocol(
    name="", style="prefix", max_new_tokens=64, truncation="middle of context", metrics=()
)
"""The protocol of rows that bring their answer prefix: they are in their benchmark's words."""

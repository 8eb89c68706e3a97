"""Read the rows of public benchmarks as they are: a context, a question, the right answers.

| schema | told by the fields | reads also |
|---|---|---|
| kvpress | context, question, answer_prefix | answer or answers, task, max_new_tokens |
| RULER | input, outputs | answer_prefix |
| LooGLE | input, qa_pairs | output, of a summary |
| LongBench-v2 | choice_A | context, question, choice_B to choice_D, answer |
| InfiniteBench | context, input, answer | options |
| BABILong | input, question, target | |
| SQuAD | data, or context, question and answers with text | |
| HotpotQA | context of titled paragraphs, question, answer | |
| LongBench, one's own | context, question or input, answers | dataset, all_classes |
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headprobe.errors import UsageError
from headprobe.evaluation.benchmarks.ruler.templates import split_prompt
from headprobe.inputs.fields import LONGEST_CONTEXT, fit_text, spelled, text_field
from headprobe.inputs.printable import brief
from headprobe.inputs.strict_json import as_object
from headprobe.prompts.data_sets import is_of_hub, question_rows
from headprobe.prompts.documents import loogle_document

CHOICES = "ABCD"
_QUESTIONS = ("question", "input")
_ANSWERS = ("answers", "answer")
# Four options at the end of a question in its benchmark's words.
_LISTED = re.compile(r"\nA\. (.*)\nB\. (.*)\nC\. (.*)\nD\. (.*)\Z")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A question about a context.

    ``schema`` is the schema that the row was read by, ``task`` the set of the benchmark that the
    row names, or "". ``question`` is "" where the row asks nothing. ``answer_prefix`` is the text
    that the answer follows, with the white space before it; ``None`` where the row has none, and
    context and question are bare. ``choices`` is the end of the question that lists the options,
    or "". ``all_classes`` are the classes to tell apart, the options' texts where there are some.
    """

    context: str
    question: str
    answers: tuple[str, ...]
    schema: str
    task: str = ""
    answer_prefix: str | None = None
    max_new_tokens: int | None = None
    all_classes: tuple[str, ...] = ()
    choices: str = ""


def read_rows(source: str | Path) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a JSONL file, a JSON array or a data set of the hub, each with its place.

    A row that asks several questions becomes as many.

    Raises:
        UsageError: the source cannot be read, or a row cannot be used; the field is named.
        HeadprobeError: the data set cannot be loaded.
    """
    for place, row in question_rows(source):
        try:
            for one in parse_row(as_object(row)):
                yield place, one
        except ValueError as error:
            path = None if is_of_hub(source) else Path(source)
            raise UsageError(f"{source}, {place}: {error}", path=path) from error


def parse_row(fields: Mapping[str, Any]) -> list[Row]:
    """Make the questions of one row, by the schema that its fields tell.

    Raises:
        ValueError: a field that the schema asks for is missing or unfit.
    """
    read = next(read for tells, read in _SCHEMAS if tells(fields))
    return read(fields)


def _kvpress(fields: Mapping[str, Any]) -> list[Row]:
    tokens = fields.get("max_new_tokens")
    if tokens is not None and (type(tokens) is not int or tokens < 1):
        raise ValueError(f"expected a number of tokens in field 'max_new_tokens', got {tokens!r}")
    question = _verbatim(fields, "question", may_be_empty=True)
    listed = _LISTED.search(question)
    return [
        Row(
            context=_verbatim(fields, "context"),
            question=question,
            answers=_answers(fields),
            schema="kvpress",
            task=_name(fields, "task"),
            answer_prefix=_verbatim(fields, "answer_prefix", may_be_empty=True),
            max_new_tokens=tokens,
            all_classes=_classes(fields) or (listed.groups() if listed else ()),
        )
    ]


def _ruler(fields: Mapping[str, Any]) -> list[Row]:
    prompt = _verbatim(fields, "input")
    prefix = fields.get("answer_prefix") and _verbatim(fields, "answer_prefix")
    prompt = prompt.rstrip() + " " + prefix.lstrip() if prefix else prompt
    task, context, question, answer_prefix = split_prompt(prompt)
    return [
        Row(
            context=context,
            question=question,
            answers=_answers(fields, "outputs"),
            schema="ruler",
            task=_name(fields, "task") or task,
            answer_prefix=answer_prefix,
        )
    ]


def _loogle(fields: Mapping[str, Any]) -> list[Row]:
    document = loogle_document(fields)
    return [
        Row(
            context=document.text,
            question=asked.question,
            answers=(asked.answer,),
            schema="loogle",
            task=document.task,
        )
        for asked in document.questions
    ]


def _longbench_v2(fields: Mapping[str, Any]) -> list[Row]:
    letter = text_field(fields, "answer")
    if letter not in CHOICES:
        raise ValueError(f"expected one of A, B, C, D in field 'answer', got {brief(letter)}")
    options = [text_field(fields, f"choice_{one}") for one in CHOICES]
    choices = _listed(options, "\n({}) {}")
    return [
        Row(
            context=_context(fields),
            question=text_field(fields, "question") + choices,
            answers=(letter,),
            schema="longbench-v2",
            task="longbench-v2",
            all_classes=tuple(options),
            choices=choices,
        )
    ]


def _infinitebench(fields: Mapping[str, Any]) -> list[Row]:
    options = _classes(fields, "options")
    answers = _answers(fields, "answer")
    choices = _listed(options, "\n{}. {}")
    if options:
        given = [CHOICES[options.index(one)] for one in answers if one in options[: len(CHOICES)]]
        if not given:
            raise ValueError(f"the answer, {brief(answers)}, is none of the 'options'")
        answers = (given[0],)
    return [
        Row(
            context=_context(fields),
            question=_asked(fields, "input") + choices,
            answers=answers,
            schema="infinitebench",
            task=_name(fields, "task"),
            all_classes=options,
            choices=choices,
        )
    ]


def _babilong(fields: Mapping[str, Any]) -> list[Row]:
    return [
        Row(
            context=text_field(fields, "input", longest=LONGEST_CONTEXT),
            question=text_field(fields, "question"),
            answers=_answers(fields, "target"),
            schema="babilong",
            task=_name(fields, "task"),
        )
    ]


def _squad(fields: Mapping[str, Any]) -> list[Row]:
    """Read a row of the hub's SQuAD, or the published file, which is a single object."""
    if "data" not in fields:
        answered = as_object(fields["answers"])
        if not answered.get("text"):
            return []
        return [
            Row(
                context=_context(fields),
                question=text_field(fields, "question"),
                answers=_answers(answered, "text"),
                schema="squad",
                task="squad",
            )
        ]
    return [
        row
        for article in _objects(fields, "data")
        for paragraph in _objects(article, "paragraphs")
        for asked in _objects(paragraph, "qas")
        for row in _squad(
            {
                "context": paragraph.get("context"),
                "question": asked.get("question"),
                "answers": {"text": [one.get("text") for one in _objects(asked, "answers")]},
            }
        )
    ]


def _hotpotqa(fields: Mapping[str, Any]) -> list[Row]:
    return [
        Row(
            context="\n\n".join(paragraphs(fields)),
            question=text_field(fields, "question"),
            answers=_answers(fields, "answer"),
            schema="hotpotqa",
            task="hotpotqa",
        )
    ]


def _plain(fields: Mapping[str, Any]) -> list[Row]:
    named = next((name for name in _QUESTIONS if name in fields), _QUESTIONS[0])
    return [
        Row(
            context=_context(fields),
            question=_asked(fields, named),
            answers=_answers(fields),
            schema="longbench" if "dataset" in fields else "",
            task=_name(fields, "dataset") or _name(fields, "task"),
            all_classes=_classes(fields),
        )
    ]


def paragraphs(fields: Mapping[str, Any]) -> list[str]:
    """Return HotpotQA's paragraphs, each a title and its sentences.

    Raises:
        ValueError: the field ``context`` has another form.
    """
    context = fields["context"]
    if isinstance(context, Mapping):
        context = list(zip(context.get("title", ()), context.get("sentences", ()), strict=False))
    try:
        told = [f"{title}\n{''.join(sentences)}" for title, sentences in context]
    except (TypeError, ValueError):
        told = []
    if not told:
        raise ValueError(f"expected titled paragraphs in field 'context', got {brief(context)}")
    return [fit_text(one, "field 'context'", longest=LONGEST_CONTEXT) for one in told]


def _is_squad(fields: Mapping[str, Any]) -> bool:
    answers = fields.get("answers")
    return isinstance(answers, Mapping) or {"data"} == fields.keys() - {"version"}


_Reader = Callable[[Mapping[str, Any]], list[Row]]
_SCHEMAS: Sequence[tuple[Callable[[Mapping[str, Any]], bool], _Reader]] = (
    (lambda fields: "answer_prefix" in fields and "input" not in fields, _kvpress),
    (lambda fields: "outputs" in fields, _ruler),
    (lambda fields: "qa_pairs" in fields, _loogle),
    (lambda fields: "choice_A" in fields, _longbench_v2),
    (lambda fields: {"input", "question", "target"} <= fields.keys(), _babilong),
    (_is_squad, _squad),
    (lambda fields: isinstance(fields.get("context"), list | Mapping), _hotpotqa),
    (lambda fields: {"context", "input", "answer"} <= fields.keys(), _infinitebench),
    (lambda fields: True, _plain),
)
"""Tests for a schema, each with the reader of its rows; the first that fits is taken."""


def _context(fields: Mapping[str, Any]) -> str:
    return text_field(fields, "context", longest=LONGEST_CONTEXT)


def _asked(fields: Mapping[str, Any], name: str) -> str:
    """Return the question in a field; ``input`` is empty where a row asks for a summary."""
    if name == "input" and isinstance(fields[name], str) and not fields[name].strip():
        return ""
    return text_field(fields, name)


def _answers(fields: Mapping[str, Any], name: str | None = None) -> tuple[str, ...]:
    """Return the right answers in a field, texts or numbers."""
    name = name or next((one for one in _ANSWERS if one in fields), _ANSWERS[0])
    given = fields.get(name)
    listed = [spelled(one) for one in (given if isinstance(given, list) else [given])]
    if not listed or not all(isinstance(one, str) and one.strip() for one in listed):
        raise ValueError(
            f"expected a text, a number or a list of them in field {name!r}, got {brief(given)}"
        )
    return tuple(fit_text(one, f"field {name!r}") for one in listed)


def _classes(fields: Mapping[str, Any], name: str = "all_classes") -> tuple[str, ...]:
    given = fields.get(name)
    if given is None:
        return ()
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise ValueError(f"expected a list of texts in field {name!r}, got {brief(given)}")
    return tuple(fit_text(one, f"field {name!r}") for one in given)


def _verbatim(fields: Mapping[str, Any], name: str, *, may_be_empty: bool = False) -> str:
    """Return a field's text as it is, white space and all."""
    value = fields.get(name)
    if may_be_empty and value == "":
        return ""
    text_field(fields, name, longest=LONGEST_CONTEXT)
    return str(value)


def _name(fields: Mapping[str, Any], name: str) -> str:
    return text_field(fields, name) if fields.get(name) else ""


def _objects(fields: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    listed = fields.get(name)
    if not isinstance(listed, list):
        raise ValueError(f"expected a list in field {name!r}, got {brief(listed)}")
    return [as_object(one) for one in listed]


def _listed(options: Sequence[str], line: str) -> str:
    """List options, each in a line after its letter."""
    pairs = zip(CHOICES, options, strict=False)
    return "".join(line.format(letter, option) for letter, option in pairs)

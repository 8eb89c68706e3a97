"""Read the rows of public benchmarks as they are: a context, a question, the right answers.

| schema | told by any of | fields |
|---|---|---|
| LongBench-v2 | choice_A to choice_D | context, question, the four choices, answer |
| RULER | outputs; input without a context | input, outputs; answer_prefix |
| kvpress | answer_prefix without input | context, question, answer(s); task, max_new_tokens |
| LooGLE | qa_pairs, title or output, without a context | input, qa_pairs; output, of a summary |
| BABILong | target; input and question, without a context | input, question, target |
| SQuAD | data, or answers that are an object | context, question, answers with text |
| HotpotQA | context that is a list or an object | context of paragraphs, question, answer |
| InfiniteBench | options without question | context, input, answer, options |
| LongBench | dataset | context, input, answers, dataset; all_classes |
| one's own | | context, question or input, answers or answer; task, max_new_tokens |

A row that lacks a field is told by another one, or is read as one's own, which needs the same: the
error names what is missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from headprobe.errors import UsageError
from headprobe.evaluation.benchmarks.row_fields import (
    CHOICES,
    answers_field,
    classes_field,
    context_field,
    list_options,
    name_field,
    objects_field,
    question_field,
    tokens_field,
    verbatim_field,
)
from headprobe.evaluation.benchmarks.ruler.templates import split_prompt
from headprobe.inputs.fields import LONGEST_CONTEXT, fit_text, text_field
from headprobe.inputs.printable import brief
from headprobe.inputs.strict_json import as_object
from headprobe.prompts.data_sets import is_of_hub, question_rows
from headprobe.prompts.documents import loogle_document

# Four options at the end of a question in its benchmark's words.
_LISTED = re.compile(r"\nA\. (.*)\nB\. (.*)\nC\. (.*)\nD\. (.*)\Z")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A question about a context.

    ``schema`` is the schema that the row was read by, "" of one's own, ``task`` the set of the
    benchmark that the row names, or "". ``question`` is blank where the row asks nothing.
    ``answer_prefix`` is the text that the answer follows, with the white space before it; ``None``
    where the row has none, and context and question are bare. ``choices`` is the end of the
    question that lists the options, or "". ``all_classes`` are the classes to tell apart, the
    options' texts where there are some.
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


def read_rows(source: str | Path, *, benchmark: str = "") -> Iterator[tuple[str, Row]]:
    """Yield the rows of a JSONL file, a JSON array or a data set of the hub, each with its place.

    A row that asks several questions becomes as many.

    Raises:
        UsageError: the source cannot be read, or a row cannot be used; the field is named.
        HeadprobeError: the data set cannot be loaded.
    """
    for place, row in question_rows(source):
        try:
            for one in parse_row(as_object(row), benchmark=benchmark):
                yield place, one
        except ValueError as error:
            path = None if is_of_hub(source) else Path(source)
            raise UsageError(f"{source}, {place}: {error}", path=path) from error


def parse_row(fields: Mapping[str, Any], *, benchmark: str = "") -> list[Row]:
    """Make the questions of one row, by the schema that its fields tell.

    A row that none tells, and that lacks what one's own rows have, is taken for one of the
    ``benchmark`` that is asked for.

    Raises:
        ValueError: a field that the schema asks for is missing or unfit.
    """
    schema = next(name for name, (tells, _) in _SCHEMAS.items() if tells(fields))
    if schema == "" and benchmark in _SCHEMAS and not _is_whole(fields):
        schema = benchmark
    _, read = _SCHEMAS[schema]
    try:
        return read(fields)
    except ValueError as error:
        raise ValueError(f"{error} (a row of {schema})" if schema else str(error)) from error


def _kvpress(fields: Mapping[str, Any]) -> list[Row]:
    question = verbatim_field(fields, "question", may_be_empty=True)
    listed = _LISTED.search(question)
    return [
        Row(
            context=verbatim_field(fields, "context"),
            question=question,
            answers=answers_field(fields, None if "answers" in fields else "answer"),
            schema="kvpress",
            task=name_field(fields, "task"),
            answer_prefix=verbatim_field(fields, "answer_prefix", may_be_empty=True),
            max_new_tokens=tokens_field(fields),
            all_classes=classes_field(fields) or (listed.groups() if listed else ()),
        )
    ]


def _ruler(fields: Mapping[str, Any]) -> list[Row]:
    prompt = verbatim_field(fields, "input")
    prefix = fields.get("answer_prefix") and verbatim_field(fields, "answer_prefix")
    prompt = prompt.rstrip() + " " + prefix.lstrip() if prefix else prompt
    answers = answers_field(fields, "outputs")
    task, context, question, answer_prefix = split_prompt(prompt)
    return [
        Row(
            context=context,
            question=question,
            answers=answers,
            schema="ruler",
            task=name_field(fields, "task") or task,
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
    options = [text_field(fields, f"choice_{one}") for one in CHOICES]
    letter = text_field(fields, "answer")
    if letter not in CHOICES:
        raise ValueError(f"expected one of A, B, C, D in field 'answer', got {brief(letter)}")
    choices = list_options(options, "\n({}) {}")
    return [
        Row(
            context=context_field(fields),
            question=text_field(fields, "question") + choices,
            answers=(letter,),
            schema="longbench-v2",
            task="longbench-v2",
            all_classes=tuple(options),
            choices=choices,
        )
    ]


def _infinitebench(fields: Mapping[str, Any]) -> list[Row]:
    options = classes_field(fields, "options")
    answers = answers_field(fields, "answer")
    choices = list_options(options, "\n{}. {}")
    if options:
        given = [CHOICES[options.index(one)] for one in answers if one in options[: len(CHOICES)]]
        if not given:
            raise ValueError(f"the answer, {brief(answers)}, is none of the 'options'")
        answers = (given[0],)
    return [
        Row(
            context=context_field(fields),
            question=question_field(fields, default="input") + choices,
            answers=answers,
            schema="infinitebench",
            task=name_field(fields, "task"),
            all_classes=options,
            choices=choices,
        )
    ]


def _babilong(fields: Mapping[str, Any]) -> list[Row]:
    return [
        Row(
            context=text_field(fields, "input", longest=LONGEST_CONTEXT),
            question=text_field(fields, "question"),
            answers=answers_field(fields, "target"),
            schema="babilong",
            task=name_field(fields, "task"),
        )
    ]


def _squad(fields: Mapping[str, Any]) -> list[Row]:
    """Read a row of the hub's SQuAD, or the published file, which is a single object.

    A question with an empty list of answers, as SQuAD 2 has, asks nothing that can be graded.
    """
    if not _is_squad_file(fields):
        answers = fields.get("answers")
        if not isinstance(answers, Mapping):
            raise ValueError(
                f"expected an object with 'text' in field 'answers', got {brief(answers)}"
            )
        given = answers.get("text")
        if given == []:
            return []
        return [
            Row(
                context=context_field(fields),
                question=text_field(fields, "question"),
                answers=answers_field({"answers.text": given}, "answers.text"),
                schema="squad",
                task="squad",
            )
        ]
    return [
        row
        for article in objects_field(fields, "data")
        for paragraph in objects_field(article, "paragraphs")
        for asked in objects_field(paragraph, "qas")
        for row in _squad(
            {
                "context": paragraph.get("context"),
                "question": asked.get("question"),
                "answers": {"text": [one.get("text") for one in objects_field(asked, "answers")]},
            }
        )
    ]


def _hotpotqa(fields: Mapping[str, Any]) -> list[Row]:
    return [
        Row(
            context="\n\n".join(paragraphs(fields)),
            question=text_field(fields, "question"),
            answers=answers_field(fields, "answer"),
            schema="hotpotqa",
            task="hotpotqa",
        )
    ]


def _plain(fields: Mapping[str, Any], *, schema: str, question: str) -> list[Row]:
    return [
        Row(
            context=context_field(fields),
            question=question_field(fields, default=question),
            answers=answers_field(fields),
            schema=schema,
            task=name_field(fields, "dataset") or name_field(fields, "task"),
            max_new_tokens=tokens_field(fields),
            all_classes=classes_field(fields),
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


def _is_ruler(fields: Mapping[str, Any]) -> bool:
    others = {*_PLAIN, *_LOOGLE, "question", "target", "options", "dataset"}
    return "outputs" in fields or ("input" in fields and not others & fields.keys())


def _is_loogle(fields: Mapping[str, Any]) -> bool:
    return not _PLAIN & fields.keys() and bool(_LOOGLE & fields.keys())


def _is_babilong(fields: Mapping[str, Any]) -> bool:
    told = "target" in fields or {"input", "question"} <= fields.keys()
    return told and not _PLAIN & fields.keys()


def _is_squad_file(fields: Mapping[str, Any]) -> bool:
    return bool(fields) and fields.keys() <= {"data", "version"}


def _is_squad(fields: Mapping[str, Any]) -> bool:
    return _is_squad_file(fields) or isinstance(fields.get("answers"), Mapping)


def _is_whole(fields: Mapping[str, Any]) -> bool:
    """Tell whether a row has the fields that one's own rows have."""
    alternatives = ({"context"}, {"question", "input"}, {"answers", "answer"})
    return all(names & fields.keys() for names in alternatives)


_PLAIN = {"context", "answers", "answer"}
_LOOGLE = {"qa_pairs", "title", "output"}
_Teller = Callable[[Mapping[str, Any]], bool]
_Reader = Callable[[Mapping[str, Any]], list[Row]]
_SCHEMAS: dict[str, tuple[_Teller, _Reader]] = {
    "longbench-v2": (
        lambda fields: any(f"choice_{one}" in fields for one in CHOICES),
        _longbench_v2,
    ),
    "ruler": (_is_ruler, _ruler),
    "kvpress": (lambda fields: "answer_prefix" in fields and "input" not in fields, _kvpress),
    "loogle": (_is_loogle, _loogle),
    "babilong": (_is_babilong, _babilong),
    "squad": (_is_squad, _squad),
    "hotpotqa": (lambda fields: isinstance(fields.get("context"), list | Mapping), _hotpotqa),
    "infinitebench": (
        lambda fields: "options" in fields and "question" not in fields,
        _infinitebench,
    ),
    "longbench": (
        lambda fields: "dataset" in fields,
        partial(_plain, schema="longbench", question="input"),
    ),
    "": (lambda fields: True, partial(_plain, schema="", question="question")),
}
"""Tests for a schema and the reader of its rows, by name; the first that fits is taken."""

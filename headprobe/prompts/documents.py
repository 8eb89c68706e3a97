"""Read documents with questions and the sentences that answer them, as LooGLE has them.

A row (Li et al., arXiv 2311.04939) holds a document in ``input`` and, in ``qa_pairs``, a Python
literal in a string: a list of objects with a question ``Q``, an answer ``A`` and evidence ``S``.
A row may also hold one ``question`` about its ``context``, with ``answer`` and ``evidence``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headprobe.inputs.fields import LONGEST_CONTEXT, spelled, text_field
from headprobe.inputs.literals import parse_literal
from headprobe.inputs.printable import brief
from headprobe.inputs.strict_json import as_object

NOTHING = "none"
SUMMARY, CLOZE, SHORT, LONG = (
    "longdep_summarization",
    "shortdep_cloze",
    "shortdep_qa",
    "longdep_qa",
)


@dataclass(frozen=True, kw_only=True)
class AskedOfDocument:
    """A question about a document, its answer, and the passages that answer it."""

    question: str
    answer: str
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Document:
    """A document and what is asked of it; ``task`` is the set of LooGLE that it belongs to."""

    text: str
    task: str
    questions: tuple[AskedOfDocument, ...]


def loogle_document(fields: Mapping[str, Any]) -> Document:
    """Read a row of LooGLE: a document and the questions about it.

    Raises:
        ValueError: a field is missing or unfit; it is named.
    """
    if "context" in fields and "qa_pairs" not in fields:
        return _of_one_question(fields)
    text = text_field(fields, "input", longest=LONGEST_CONTEXT)
    pairs = fields.get("qa_pairs")
    if _is_nothing(pairs) and ("qa_pairs" in fields or not _is_nothing(fields.get("output"))):
        summary = AskedOfDocument(question="", answer=text_field(fields, "output"))
        return Document(text=text, task=SUMMARY, questions=(summary,))
    listed = _listed(pairs) if isinstance(pairs, str) else pairs
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"expected a list of questions in field 'qa_pairs', got {brief(listed)}")
    told = [as_object(one) for one in listed]
    questions = tuple(_of_pair(one, number) for number, one in enumerate(told, start=1))
    return Document(text=text, task=_task(told[0]), questions=questions)


def _of_one_question(fields: Mapping[str, Any]) -> Document:
    if "evidence" not in fields:
        raise ValueError("the row brings no evidence: LooGLE's own rows do, in field 'qa_pairs'")
    asked = _asked(fields, question="question", answer="answer", evidence="evidence")
    text = text_field(fields, "context", longest=LONGEST_CONTEXT)
    return Document(text=text, task=str(fields.get("task") or ""), questions=(asked,))


def _is_nothing(value: Any) -> bool:
    """Tell whether a field is left out, as LooGLE leaves one out: by name too."""
    return value is None or (isinstance(value, str) and value.strip().lower() == NOTHING)


def _listed(pairs: str) -> Any:
    try:
        return parse_literal(pairs)
    except ValueError as error:
        raise ValueError(f"field 'qa_pairs' is {error}") from None


def _of_pair(pair: Mapping[str, Any], number: int) -> AskedOfDocument:
    try:
        return _asked(pair, question="Q", answer="A", evidence="S")
    except ValueError as error:
        raise ValueError(f"question {number} of 'qa_pairs': {error}") from None


def _asked(
    fields: Mapping[str, Any], *, question: str, answer: str, evidence: str
) -> AskedOfDocument:
    """Read the fields of these names."""
    given = fields.get(answer)
    told = _masks(given) if isinstance(given, list | dict) else spelled(given)
    return AskedOfDocument(
        question=text_field(fields, question),
        answer=text_field({answer: told}, answer),
        evidence=_evidence(fields, evidence),
    )


def _evidence(fields: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Return the passages in a field: a text or a list of them, none where it is left out."""
    given = fields.get(name) or ()
    passages = [given] if isinstance(given, str) else given
    if not isinstance(passages, list | tuple):
        raise ValueError(
            f"expected a text or a list of texts in field {name!r}, got {brief(given)}"
        )
    return tuple(text_field({name: passage}, name) for passage in passages)


def _masks(answer: list[Any] | dict[Any, Any]) -> str:
    """Write the masked entities of a cloze as kvpress' rows have them: a JSON object."""
    named = answer if isinstance(answer, dict) else number_masks(answer)
    return json.dumps(named, ensure_ascii=False)


def number_masks(names: Sequence[Any]) -> dict[str, Any]:
    """Give masked entities, in the order of their masks, LooGLE's names of the masks."""
    return {f"<mask-{number}>": name for number, name in enumerate(names)}


def _task(pair: Mapping[str, Any]) -> str:
    if isinstance(pair.get("A"), list | dict):
        return CLOZE
    return LONG if "type" in pair or isinstance(pair.get("S"), list) else SHORT

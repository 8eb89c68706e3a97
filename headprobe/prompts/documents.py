"""Read documents with questions and the sentences that answer them, as LooGLE has them.

A row (Li et al., arXiv 2311.04939) holds a document in ``input`` and, in ``qa_pairs``, a Python
literal in a string: a list of objects with a question ``Q``, an answer ``A`` and evidence ``S``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
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
    text = text_field(fields, "input", longest=LONGEST_CONTEXT)
    pairs = fields.get("qa_pairs")
    if pairs is None or (isinstance(pairs, str) and pairs.strip().lower() == NOTHING):
        summary = AskedOfDocument(question="", answer=text_field(fields, "output"))
        return Document(text=text, task=SUMMARY, questions=(summary,))
    listed = _listed(pairs) if isinstance(pairs, str) else pairs
    if not isinstance(listed, list) or not listed:
        raise ValueError(f"expected a list of questions in field 'qa_pairs', got {brief(listed)}")
    told = [as_object(one) for one in listed]
    questions = tuple(_asked(one, number) for number, one in enumerate(told, start=1))
    return Document(text=text, task=_task(told[0]), questions=questions)


def _listed(pairs: str) -> Any:
    try:
        return parse_literal(pairs)
    except ValueError as error:
        raise ValueError(f"field 'qa_pairs' is {error}") from None


def _asked(pair: Mapping[str, Any], number: int) -> AskedOfDocument:
    evidence = pair.get("S", ())
    passages = [evidence] if isinstance(evidence, str) else list(evidence)
    answer = pair.get("A")
    if isinstance(answer, list | dict):
        answer = _masks(answer)
    try:
        return AskedOfDocument(
            question=text_field(pair, "Q"),
            answer=text_field({"A": spelled(answer)}, "A"),
            evidence=tuple(text_field({"S": passage}, "S") for passage in passages),
        )
    except ValueError as error:
        raise ValueError(f"question {number} of 'qa_pairs': {error}") from None


def _masks(answer: list[Any] | dict[Any, Any]) -> str:
    """Write the masked entities of a cloze as kvpress' rows have them: a JSON object."""
    named = answer if isinstance(answer, dict) else {f"<mask-{i}>": a for i, a in enumerate(answer)}
    return json.dumps(named, ensure_ascii=False)


def _task(pair: Mapping[str, Any]) -> str:
    if isinstance(pair.get("A"), list | dict):
        return CLOZE
    return LONG if "type" in pair or isinstance(pair.get("S"), list) else SHORT

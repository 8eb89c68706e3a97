"""Read the fields of a benchmark's row: questions, answers, classes, lists of options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headprobe.inputs.fields import LONGEST_CONTEXT, fit_text, spelled, text_field
from headprobe.inputs.printable import brief
from headprobe.inputs.strict_json import as_object

CHOICES = "ABCD"
_QUESTIONS = ("question", "input")
_ANSWERS = ("answers", "answer")


def context_field(fields: Mapping[str, Any]) -> str:
    """Return the text in field ``context``."""
    return text_field(fields, "context", longest=LONGEST_CONTEXT)


def question_field(fields: Mapping[str, Any], *, default: str = _QUESTIONS[0]) -> str:
    """Return the question in ``question`` or ``input``; it may be empty if no other one is given.

    Raises:
        ValueError: there is none; ``default`` is the field that is then missing.
    """
    given = [name for name in _QUESTIONS if name in fields] or [default]
    value = fields.get(given[0])
    if isinstance(value, str) and not value.strip() and len(given) == 1:
        return ""
    return text_field(fields, given[0])


def answers_field(fields: Mapping[str, Any], name: str | None = None) -> tuple[str, ...]:
    """Return the right answers in a field, texts or numbers; by default ``answers``, ``answer``."""
    name = name or next((one for one in _ANSWERS if one in fields), _ANSWERS[0])
    given = fields.get(name)
    listed = [spelled(one) for one in (given if isinstance(given, list) else [given])]
    if not listed or not all(isinstance(one, str) and one.strip() for one in listed):
        raise ValueError(
            f"expected a text, a number or a list of them in field {name!r}, got {brief(given)}"
        )
    return tuple(fit_text(one, f"field {name!r}") for one in listed)


def classes_field(fields: Mapping[str, Any], name: str = "all_classes") -> tuple[str, ...]:
    """Return the texts listed in a field; none where it is left out."""
    given = fields.get(name)
    if given is None:
        return ()
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise ValueError(f"expected a list of texts in field {name!r}, got {brief(given)}")
    return tuple(fit_text(one, f"field {name!r}") for one in given)


def tokens_field(fields: Mapping[str, Any], name: str = "max_new_tokens") -> int | None:
    """Return a number of tokens, ``None`` where the field is left out."""
    tokens = fields.get(name)
    if tokens is not None and (type(tokens) is not int or tokens < 1):
        raise ValueError(f"expected a number of tokens in field {name!r}, got {brief(tokens)}")
    return tokens


def verbatim_field(fields: Mapping[str, Any], name: str, *, may_be_empty: bool = False) -> str:
    """Return a field's text as it is, white space and all."""
    value = fields.get(name)
    if may_be_empty and isinstance(value, str) and not value.strip():
        return value
    text_field(fields, name, longest=LONGEST_CONTEXT)
    return str(value)


def name_field(fields: Mapping[str, Any], name: str) -> str:
    """Return the name in a field, or "" where it is left out."""
    return text_field(fields, name) if fields.get(name) else ""


def objects_field(fields: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """Return the JSON objects that are listed in a field."""
    listed = fields.get(name)
    if not isinstance(listed, list):
        raise ValueError(f"expected a list in field {name!r}, got {brief(listed)}")
    return [as_object(one) for one in listed]


def list_options(options: Sequence[str], line: str) -> str:
    """List options, each in a line after its letter."""
    pairs = zip(CHOICES, options, strict=False)
    return "".join(line.format(letter, option) for letter, option in pairs)

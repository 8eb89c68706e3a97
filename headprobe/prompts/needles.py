"""Read needles: facts to hide in a haystack, each with a question that it answers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from headprobe.errors import HeadprobeWarning, UsageError
from headprobe.inputs.fields import spelled_field, text_field
from headprobe.inputs.files import json_rows
from headprobe.inputs.printable import brief
from headprobe.inputs.strict_json import as_object
from headprobe.prompts.spelling import find_text, normal_text

Language = Literal["english", "chinese"]
"""A language that prompts are written in."""


@dataclass(frozen=True, kw_only=True)
class Needle:
    """A text to insert, a question about it, and the part of it to watch.

    ``start`` and ``stop`` are character offsets of the watched part in ``text``. ``wrong_answer``
    is the answer that the needle tempts a model to give, ``kind`` the sort of needle, by which pass
    rates are grouped; ``None`` where the file does not say.
    """

    text: str
    question: str
    answer: str
    start: int
    stop: int
    wrong_answer: str | None = None
    kind: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop <= len(self.text):
            raise ValueError(
                f"expected a watched part inside {len(self.text)} characters, "
                f"got {self.start} to {self.stop}"
            )
        if self.wrong_answer and normal_text(self.wrong_answer) == normal_text(self.answer):
            raise ValueError(
                f"expected another text in 'wrong_answer' than the answer, got {brief(self.answer)}"
            )


def read_needles(path: Path) -> list[Needle]:
    """Read needles from JSONL, or a JSON array, as Retrieval Head's and HeadKV's files have them.

    ``needle``, ``question`` and ``real_needle`` (the watched part) are required; ``answer`` falls
    back to ``real_needle``; ``wrong_answer`` and ``kind`` may be left out. Other fields are left
    unread. A needle with the same text and the same watched part as an earlier one is no second
    sample: it is left out, and a warning counts these.

    Raises:
        UsageError: the file does not exist, holds no needle, or has a row that cannot be used.
    """
    needles: dict[tuple[str, str], Needle] = {}
    read = 0
    for place, row in json_rows(path, kind="needle"):
        try:
            needle = parse_needle(as_object(row))
        except ValueError as error:
            raise UsageError(f"{path}, {place}: {error}", path=path) from error
        read += 1
        watched = needle.text[needle.start : needle.stop]
        needles.setdefault((normal_text(needle.text), normal_text(watched)), needle)
    if not needles:
        raise UsageError(f"{path} holds no needle; write one JSON object a line", path=path)
    warn_of_repeats(path, "needles", read=read, distinct=len(needles))
    return list(needles.values())


def language_of(text: str) -> Language:
    """Return ``chinese`` if most letters of a text are Han characters, else ``english``."""
    letters = [letter for letter in text if letter.isalpha()]
    han = sum("\u3400" <= letter <= "\u9fff" for letter in letters)
    return "chinese" if 2 * han > len(letters) else "english"


def warn_of_repeats(path: str | Path, what: str, *, read: int, distinct: int) -> None:
    """Warn if a file's lines repeat needles or questions, which are then used once."""
    if distinct < read:
        warnings.warn(
            f"{read - distinct} of {read} {what} in {path} repeat earlier ones and are left out: "
            f"{distinct} distinct {what} are asked",
            HeadprobeWarning,
            stacklevel=3,
        )


def parse_needle(fields: Mapping[str, Any]) -> Needle:
    """Make a needle from an object of a needle file; ``ValueError`` says what is wrong."""
    needle = text_field(fields, "needle")
    watched = spelled_field(fields, "real_needle")
    found = find_text(watched, needle)
    if found is None:
        raise ValueError(f"the text of 'real_needle', {brief(watched)}, does not stand in 'needle'")
    start, stop = found
    answer = spelled_field(fields, "answer") if "answer" in fields else watched
    question = text_field(fields, "question")
    return Needle(
        text=needle,
        question=question,
        answer=answer,
        start=start,
        stop=stop,
        wrong_answer=_optional(spelled_field, fields, "wrong_answer"),
        kind=_optional(text_field, fields, "kind"),
    )


def _optional(
    read: Callable[[Mapping[str, Any], str], str], fields: Mapping[str, Any], name: str
) -> str | None:
    return None if fields.get(name) is None else read(fields, name)

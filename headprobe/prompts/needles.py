"""Read needles: facts to hide in a haystack, each with a question that it answers."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headprobe.errors import HeadprobeWarning, UsageError
from headprobe.files import json_object, numbered_lines, text_field


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
                f"expected another text in 'wrong_answer' than the answer, got {self.answer!r}"
            )


def read_needles(path: Path) -> list[Needle]:
    """Read needles from JSONL with the fields of Retrieval Head's and HeadKV's needle files.

    ``needle``, ``question`` and ``real_needle`` (the watched part) are required; ``answer`` falls
    back to ``real_needle``; ``wrong_answer`` and ``kind`` may be left out. Other fields are left
    unread. A needle with the same text and the same watched part as an earlier one is no second
    sample: it is left out, and a warning counts these.

    Raises:
        UsageError: the file does not exist, holds no needle, or has a line that cannot be used.
    """
    needles: dict[tuple[str, str], Needle] = {}
    lines = numbered_lines(path, kind="needle")
    for number, line in lines:
        try:
            needle = parse_needle(json_object(line))
        except ValueError as error:
            raise UsageError(f"{path}, line {number}: {error}", path=path) from error
        watched = needle.text[needle.start : needle.stop]
        needles.setdefault((normal_text(needle.text), normal_text(watched)), needle)
    if not needles:
        raise UsageError(f"{path} holds no needle; write one JSON object a line", path=path)
    warn_of_repeats(path, "needles", read=len(lines), distinct=len(needles))
    return list(needles.values())


def language_of(needles: Sequence[Needle]) -> str:
    """Return ``chinese`` if most letters of the needles are Han characters, else ``english``."""
    letters = [letter for needle in needles for letter in needle.text if letter.isalpha()]
    han = sum("\u3400" <= letter <= "\u9fff" for letter in letters)
    return "chinese" if 2 * han > len(letters) else "english"


def normal_text(text: str) -> str:
    """Normalise a text so that copies are equal: Unicode's NFKC, with single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


def warn_of_repeats(path: Path, what: str, *, read: int, distinct: int) -> None:
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
    watched = text_field(fields, "real_needle")
    start, stop = _find(watched, needle)
    answer = text_field(fields, "answer") if "answer" in fields else watched
    question = text_field(fields, "question")
    return Needle(
        text=needle,
        question=question,
        answer=answer,
        start=start,
        stop=stop,
        wrong_answer=_optional_text(fields, "wrong_answer"),
        kind=_optional_text(fields, "kind"),
    )


def _optional_text(fields: Mapping[str, Any], name: str) -> str | None:
    return None if fields.get(name) is None else text_field(fields, name)


def _find(watched: str, needle: str) -> tuple[int, int]:
    # Whole words are tried first. Retrieval Head's own file writes one real_needle in another case.
    text = re.escape(watched)
    for pattern in (rf"(?<!\w){text}(?!\w)", text, f"(?i:{text})"):
        if found := re.search(pattern, needle):
            return found.span()
    raise ValueError("the text of 'real_needle' does not stand in 'needle'")

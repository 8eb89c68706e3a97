"""Needles: facts to hide in a haystack, with a question whose answer they hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headprobe.errors import UsageError
from headprobe.files import json_object, numbered_lines, text_field


@dataclass(frozen=True, kw_only=True)
class Needle:
    """A text to insert, a question about it, and which part of it is watched.

    ``start`` and ``stop`` are character offsets of the watched part in ``text``. ``wrong_answer``
    is the answer that the needle tempts to, ``kind`` the sort of needle, where a file says so.
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


def read_needles(path: Path) -> list[Needle]:
    """Read needles from JSONL with the fields of Retrieval Head's and HeadKV's needle files.

    ``needle``, ``question`` and ``real_needle`` (the watched part) are required; ``answer`` falls
    back to ``real_needle``. ``wrong_answer`` and ``kind`` are read where they are there. Other
    fields are left alone.

    Raises:
        UsageError: no such file, no needle in it, or a line that cannot be used (it is named).
    """
    needles = []
    for number, line in numbered_lines(path, kind="needle"):
        try:
            needles.append(parse_needle(json_object(line)))
        except ValueError as error:
            raise UsageError(f"{path}, line {number}: {error}", path=path) from error
    if not needles:
        raise UsageError(f"{path} holds no needle; write one JSON object a line", path=path)
    return needles


def parse_needle(fields: Mapping[str, Any]) -> Needle:
    """The needle that one object of a needle file describes; ``ValueError`` says what is wrong."""
    needle = text_field(fields, "needle")
    watched = text_field(fields, "real_needle")
    start, stop = _find(watched, needle)
    answer = text_field(fields, "answer") if "answer" in fields else watched
    question = text_field(fields, "question")
    wrong, kind = (
        text_field(fields, name) if fields.get(name) is not None else None
        for name in ("wrong_answer", "kind")
    )
    return Needle(
        text=needle,
        question=question,
        answer=answer,
        start=start,
        stop=stop,
        wrong_answer=wrong,
        kind=kind,
    )


def _find(watched: str, needle: str) -> tuple[int, int]:
    # Whole words first. Retrieval Head's own file spells one real_needle with another case.
    text = re.escape(watched)
    for pattern in (rf"(?<!\w){text}(?!\w)", text, f"(?i:{text})"):
        if found := re.search(pattern, needle):
            return found.span()
    raise ValueError("the text of 'real_needle' does not stand in 'needle'")

"""Show what others bring: a text on a terminal, in a picture or a table, a value in a message."""

from __future__ import annotations

import re
import reprlib

from headprobe.errors import excerpt

_LONGEST_WORD, _LONGEST, _BRIEF = 300, 4_000, 80
# Control characters, line ends, marks of the direction of writing, halves of surrogate pairs.
_HIDDEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_FORMULAS = ("=", "+", "-", "@")


def printable(text: str, *, longest: int = _LONGEST) -> str:
    """Return a text as one line that shows what it holds.

    Characters that a terminal obeys or hides become escapes, as in ``\\x1b``; long words and texts
    are cut in the middle.
    """
    line = _HIDDEN.sub(_escape, _cut(text, _LONGEST))
    line = re.sub(rf"\S{{{_LONGEST_WORD + 1},}}", lambda word: _cut(word[0], _LONGEST_WORD), line)
    return _cut(line, longest)


def plain_cell(text: str) -> str:
    """Return a printable text that a spreadsheet does not take for a formula."""
    shown = printable(text)
    return f"'{shown}" if shown.startswith(_FORMULAS) else shown


def brief(value: object) -> str:
    """Represent a value on one line of at most 80 characters, for a message."""
    text = " ".join(_brief_repr.repr(value).split())
    return excerpt(text, longest=_BRIEF)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def _cut(text: str, longest: int) -> str:
    half = (longest - 3) // 2
    return text if len(text) <= longest else f"{text[:half]}...{text[-half:]}"


class _Brief(reprlib.Repr):
    """A representation of anything in bounded time and depth, however large it is."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple = 3, 4, 6, 6
        self.maxstring = self.maxother = _BRIEF

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write out integers of thousands of digits.
        return repr(x) if x.bit_length() < 128 else f"an integer of {x.bit_length()} bits"


_brief_repr = _Brief()

"""Compare texts as a reader does, whatever their Unicode form, quotes, dashes and white space."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field

_ALIKE = str.maketrans(
    {
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u02bc\u2032\u00b4`", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033", '"'),
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"),
    }
)
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]")
# Scripts that put no space between words: Thai to Khmer, and from the CJK radicals on.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\U0003ffff]")


def normal_text(text: str) -> str:
    """Normalise a text so that copies are equal, also in another case and with other quotes."""
    plain = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text.translate(_ALIKE)))
    return " ".join(unicodedata.normalize("NFKC", plain.casefold()).split())


def find_text(part: str, whole: str) -> tuple[int, int] | None:
    """Find where a text holds a part of it, spelled as it may be.

    Whole words are tried first, then any place, then any place in another case. Of a composed or
    decomposed letter all is found or nothing.

    Returns:
        Character offsets in ``whole``, half open; ``None`` if the part is not there.
    """
    for ignore_case in (False, True):
        wanted, text = _Spelling.of(part, ignore_case), _Spelling.of(whole, ignore_case)
        places = [at for at in _occurrences(wanted.text, text.text) if text.parts(at, wanted.text)]
        words = [] if ignore_case else [at for at in places if _is_word(at, wanted, text)]
        for at in (words or places)[:1]:
            return text.starts[at], text.stops[at + len(wanted.text) - 1]
    return None


def first_word(part: str, whole: str) -> int | None:
    """Find the first place where a normal text holds another one as whole words.

    Scripts that put no spaces between words have no whole words: any place counts there.
    """
    for at in _occurrences(part, whole):
        if _parted(whole, at) and _parted(whole, at + len(part)):
            return at
    return None


def count_words(text: str) -> int:
    """Count the words of a text; where a script has no spaces, two characters count as one."""
    return len(text.split()) + len(_UNSPACED.findall(text)) // 2


def _parted(text: str, at: int) -> bool:
    """Tell whether a word may begin or end before the character ``at``."""
    if not 0 < at < len(text):
        return True
    around = text[at - 1 : at + 1]
    return not all(map(_in_word, around)) or bool(_UNSPACED.search(around))


def _in_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _occurrences(part: str, whole: str) -> Iterator[int]:
    at = whole.find(part) if part else -1
    while at >= 0:
        yield at
        at = whole.find(part, at + 1)


def _is_word(at: int, part: _Spelling, whole: _Spelling) -> bool:
    around = whole.text[max(0, at - 1) : at], whole.text[at + len(part.text) :][:1]
    return not any(map(_in_word, "".join(around)))


@dataclass(frozen=True, kw_only=True)
class _Spelling:
    """A text with its letters taken apart, and for each character its place in the original."""

    text: str
    starts: list[int] = field(default_factory=list)
    stops: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, text: str, ignore_case: bool) -> _Spelling:
        characters: list[str] = []
        starts: list[int] = []
        stops: list[int] = []
        for start, stop in _letters(text):
            for character in _spell(text[start:stop], ignore_case):
                if character.isspace() and characters[-1:] == [" "]:
                    stops[-1] = stop
                    continue
                characters.append(" " if character.isspace() else character)
                starts.append(start)
                stops.append(stop)
        return cls(text="".join(characters), starts=starts, stops=stops)

    def parts(self, at: int, part: str) -> bool:
        """Tell whether whole letters stand at ``at``, not the base of a letter with an accent."""
        stop = at + len(part)
        return all(
            not 0 < edge < len(self.text) or self.starts[edge] != self.starts[edge - 1]
            for edge in (at, stop)
        )


def _letters(text: str) -> Iterator[tuple[int, int]]:
    """Yield the offsets of each character together with the accents that follow it."""
    start = 0
    for at in range(1, len(text) + 1):
        if at == len(text) or not unicodedata.combining(text[at]):
            yield start, at
            start = at


def _spell(letter: str, ignore_case: bool) -> str:
    plain = unicodedata.normalize("NFKD", _INVISIBLE.sub("", letter.translate(_ALIKE)))
    return unicodedata.normalize("NFKD", plain.casefold()) if ignore_case else plain

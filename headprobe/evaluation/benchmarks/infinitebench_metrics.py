"""InfiniteBench's metrics (Zhang et al., arXiv 2402.13718), with the quirks of its code."""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Sequence

from headprobe.evaluation.benchmarks.overlap import CHINESE_MARKS, token_f1

LETTERS = "ABCD"
_NO_MARKS = str.maketrans("", "", string.punctuation + CHINESE_MARKS)
_DIGITS = re.compile("[0-9]+")
_NUMBER = re.compile(r"\d+\.\d+|\d+")
_LAST_OF_BOOK = re.compile(r"\b[A-D]\b(?!.*\b[A-D]\b)")
_LAST_OF_CODE = re.compile(r"\b[A-J]\b(?!.*\b[A-J]\b)")
_BEFORE_LETTER = ("answer is:", "answer:", "answer is", "option is")
_BEFORE_OPTION = ("answer is:", "is:", "answer:", "correct option is:")


def first_integer(response: str, answers: Sequence[str], classes: Sequence[str] = ()) -> float:
    """Score 100 where the first digits of a response are the answer (keys, sequences)."""
    found = _DIGITS.search(response)
    return 100.0 * (found is not None and found[0] == answers[0])


def last_integer(response: str, answers: Sequence[str], classes: Sequence[str] = ()) -> float:
    """Score 100 where the last word of a response is the right integer (code that is run)."""
    said = _apart(response, "\n.`'\":")
    return 100.0 * (bool(said) and _same_integer(said[-1], answers[0]))


def first_number(response: str, answers: Sequence[str], classes: Sequence[str] = ()) -> float:
    """Score 100 where the first number of a response, without its sign, is the right one."""
    found = _NUMBER.search(response)
    if found is None:
        return 0.0
    wanted = _number(answers[0])
    if isinstance(wanted, int):
        return 100.0 * _same_integer(found[0], answers[0])
    return 100.0 * (float(found[0]) == wanted)


def leading_integers(response: str, answers: Sequence[str], classes: Sequence[str] = ()) -> float:
    """Compute how many of the values come before the first wrong one, without their signs."""
    pairs = zip(_DIGITS.findall(response), answers, strict=False)
    right = [*itertools.takewhile(lambda pair: _same_integer(*pair), pairs)]
    return 100.0 * len(right) / len(answers)


def word(response: str, answers: Sequence[str], classes: Sequence[str] = ()) -> float:
    """Score 100 where the answer is a word of a response (values of keys)."""
    return 100.0 * (answers[0] in _apart(response, "\n:\"'.,?!{}"))


def qa_f1_characters(response: str, answers: Sequence[str], classes: Sequence[str] = ()) -> float:
    """Compute the F1 of the characters of Chinese against the nearest answer."""
    said = _characters(response)
    return 100 * max(token_f1(said, _characters(answer)) for answer in answers)


def book_choice(response: str, answers: Sequence[str], classes: Sequence[str] = ()) -> float:
    """Score 100 where a response chooses the right letter, or the text of its option.

    The last letter that stands alone counts, if it is right; else the letter that the response
    begins with, the letter or option after such words as "answer is", or the first letter.
    """
    right, said = _right(answers, classes), response.strip()
    last = _LAST_OF_BOOK.search(said)
    if last is not None and last[0] in right:
        return 100.0
    if not said or said[0] in LETTERS:
        return 100.0 * (said[:1] in right)
    if said in right:
        return 100.0
    words = _apart(said, "\n\"'.,?!{}")
    after = _after(re.sub(" +", " ", _spaced(said, "\n\"'.,?!{}")), _BEFORE_LETTER)
    if after is not None:
        return 100.0 * after.startswith(tuple(right))
    return 100.0 * (next((one for one in words if one in LETTERS), "") in right)


def code_choice(response: str, answers: Sequence[str], classes: Sequence[str] = ()) -> float:
    """Score 100 where a response chooses the right letter, or the function of that name.

    The last letter that stands alone counts, if it is right; else what the response begins with,
    or what follows such words as "is:".
    """
    right, said = _right(answers, classes), response.strip()
    last = _LAST_OF_CODE.search(said)
    if last is not None and last[0] == answers[0]:
        return 100.0
    plain = _spaced(said, "\n`'\"-*").replace("Option", " ").replace("option", " ")
    plain = re.sub(" +", " ", plain)
    if plain.startswith(tuple(right)):
        return 100.0
    after = _after(plain, _BEFORE_OPTION)
    return 100.0 * (after is not None and after.startswith(tuple(right)))


def _right(answers: Sequence[str], classes: Sequence[str]) -> list[str]:
    """List the right option's letter and, where the options are known, its text."""
    letter = answers[0]
    options = dict(zip(LETTERS, classes, strict=False))
    return [one for one in (letter, options.get(letter)) if one]


def _after(text: str, leads: Sequence[str]) -> str | None:
    """Return what follows the first of ``leads`` that a text has, a character later."""
    lead = next((one for one in leads if one in text), None)
    return None if lead is None else text[text.index(lead) + len(lead) + 1 :]


def _spaced(text: str, marks: str) -> str:
    return text.translate(dict.fromkeys(map(ord, marks), " "))


def _apart(text: str, marks: str) -> list[str]:
    return _spaced(text, marks).split()


def _number(text: str) -> int | float | None:
    """Read a number; ``None`` where a text is none, or has more digits than Python reads."""
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return None


def _same_integer(one: str, other: str) -> bool:
    said = _number(one)
    return isinstance(said, int) and said == _number(other)


def _characters(text: str) -> str:
    return "".join(text.lower().translate(_NO_MARKS).split())

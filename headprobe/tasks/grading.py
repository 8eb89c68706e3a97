"""Grade a response against the right answer, in every script, and say why a response fails.

Texts are compared by their normalised words. English is normalised as LongBench does (Bai et al.,
arXiv 2308.14508): lower case, no punctuation, no articles. Chinese, Japanese, Korean and the
scripts that part no words are compared by character.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

FailureKind = Literal["nothing said", "wrong answer named", "refused", "cut off", "other"]
FAILURE_KINDS: tuple[FailureKind, ...] = (
    "nothing said",
    "wrong answer named",
    "refused",
    "cut off",
    "other",
)

_ARTICLES = frozenset({"a", "an", "the"})
# ASCII punctuation is deleted, as LongBench does, and so are the typographic apostrophe and hyphen.
# Other punctuation separates words.
_DELETED = frozenset(string.punctuation) | frozenset("\u2018\u2019\u02bc\u2010\u2011")
# Scripts in which a word is not bounded by spaces, and Korean, whose particles join their noun:
# Thai to Tibetan, Burmese, Khmer; Kana, Han, Hangul; Han beyond the first plane.
_BY_CHARACTER = re.compile(
    r"[\u0e00-\u0fff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u3007\u3040-\u30ff"
    r"\u3130-\u318f\u31f0-\u31ff\u3400-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff"
    r"\U00020000-\U0003ffff]"
)
_REFUSALS = re.compile(
    r"\b(i('m| am) (sorry|unable|not able)|i apologi[sz]e|i (can ?not|can't|do ?n[o']t|couldn't)"
    r"|as an ai\b|(is|was|are|were|does|do|did)(n't| not) (\w+ )?(mention|provide|specif|state|"
    r"given|contain|include|say|clear|enough|possible|have)\w*"
    r"|no (mention|information|answer)\b|unanswerable|unknown)"
    r"|抱歉|对不起|無法|无法|不知道|没有(提到|提及|说明|信息)|沒有提到|未提及|未提到",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Word:
    """A normalised word of a text, and its place in the text.

    ``start`` and ``end`` are character offsets, half open.
    """

    text: str
    start: int
    end: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Alignment:
    """The part of a response that gives the answer.

    ``start`` and ``end`` are character offsets into the response, half open; ``f1`` and ``recall``
    are the token F1 of that part against the answer and the fraction of the answer's words in it,
    both in per cent and 100 where part and answer are equal word for word.
    """

    start: int
    end: int
    f1: float
    recall: float


def words(text: str) -> list[Word]:
    """Split a text into normalised words.

    Characters are case-folded and in NFKC form; punctuation is dropped. A character of a script
    that parts no words, or of Korean, is a word of its own. Articles are dropped where all letters
    are English ones, unless nothing else is left (choice "A").

    >>> [word.text for word in words("The tin-drums, 林安娜。")]
    ['the', 'tindrums', '林', '安', '娜']
    """
    found = [*_split(text)]
    if not all(character.isascii() for character in text if character.isalpha()):
        return found
    return [word for word in found if word.text not in _ARTICLES] or found


def _split(text: str) -> Iterator[Word]:
    """Yield the normalised words of a text, articles included."""
    letters, start, end = "", 0, 0
    for at, cluster in _clusters(text):
        if all(character in _DELETED for character in cluster):
            continue
        plain = _plain(cluster)
        alone = bool(plain) and _BY_CHARACTER.match(plain) is not None
        if letters and (alone or not plain):
            yield Word(text=letters, start=start, end=end)
            letters = ""
        if alone:
            yield Word(text=plain, start=at, end=at + len(cluster))
        elif plain:
            start = start if letters else at
            letters, end = letters + plain, at + len(cluster)
    if letters:
        yield Word(text=letters, start=start, end=end)


def _clusters(text: str) -> Iterator[tuple[int, str]]:
    """Yield each character with the marks that combine with it, after its offset in the text."""
    start = 0
    for at in range(1, len(text) + 1):
        if at == len(text) or not _combines(text[at]):
            if start < at:
                yield start, text[start:at]
            start = at


def _combines(character: str) -> bool:
    # Vowels and final consonants of Hangul that is spelled in parts are letters, not marks.
    return unicodedata.category(character)[0] == "M" or "\u1160" <= character <= "\u11ff"


def _plain(cluster: str) -> str:
    """Normalise a character for comparison; punctuation and white space become nothing."""
    if cluster.isspace() or unicodedata.category(cluster[0])[0] in "PZC":
        return ""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", cluster).casefold())
    return "".join(c for c in folded if not c.isspace() and c not in string.punctuation)


def align(response: str, answer: str) -> Alignment | None:
    """Find the part of a response that gives the answer; ``None`` where they share no word.

    The part is a run of as many words as the answer has, or the whole of a shorter response: the
    answer itself where the response has it, else the run with the highest F1 against it. Of equally
    good runs the first one counts.

    >>> said = "The person who binds books is Bohumil."
    >>> found = align(said, "bohumil")
    >>> said[found.start : found.end], found.f1
    ('Bohumil', 100.0)
    """
    said, wanted = words(response), _texts(answer)
    runs = [said[n : n + len(wanted)] for n in range(max(1, len(said) - len(wanted) + 1))]
    texts = [[word.text for word in run] for run in runs]
    graded = [(_overlap(run, wanted, 0.5), run == wanted) for run in texts]
    best = max(range(len(runs)), key=graded.__getitem__)
    f1, _ = graded[best]
    if not f1:
        return None
    return Alignment(
        start=runs[best][0].start,
        end=runs[best][-1].end,
        f1=f1,
        recall=_overlap(texts[best], wanted, 0.0),
    )


def names_wrong(response: str, wrong_answer: str | None, right: Alignment | None) -> bool:
    """Tell whether a response holds the wrong answer, word for word, outside the right answer.

    Of "green apples" and "apples", the shorter one does not count where it stands in the longer.
    """
    if wrong_answer is None:
        return False
    said, wrong = words(response), [word.text for word in words(wrong_answer)]
    for first in range(len(said) - len(wrong) + 1 if wrong else 0):
        part = said[first : first + len(wrong)]
        inside = right is not None and right.start <= part[0].start and part[-1].end <= right.end
        if [word.text for word in part] == wrong and not inside:
            return True
    return False


def answer_steps(
    generated: Sequence[int], answer: str, decode: Callable[[Sequence[int]], str]
) -> tuple[int, int]:
    """Find the decoding steps that write the answer.

    Args:
        generated: the token of each step.
        answer: the text that ``align`` looks for in the response.
        decode: turns tokens into text.

    Returns:
        The first step and the one after the last; (0, 0) where no word of the answer is written.
    """
    found = align(decode(generated), answer)
    if found is None:
        return 0, 0
    # The text of the first n tokens. A character of several tokens is written by the last of them.
    written = [decode(generated[:n]) for n in range(len(generated) + 1)]
    reached = [len(text.rstrip("\ufffd")) for text in written]
    end = next(n for n, length in enumerate(reached) if length >= found.end)
    start = next(n for n, length in enumerate(reached) if length > found.start) - 1
    while start > 0 and written[start].endswith("\ufffd"):
        start -= 1
    return start, end


def score_aligned(response: str, answer: str, wrong_answer: str | None = None) -> float:
    """Score a response by the part that gives the answer: its token F1, 0 to 100.

    A response that names the wrong answer scores 0.
    """
    found = align(response, answer)
    if found is None or names_wrong(response, wrong_answer, found):
        return 0.0
    return found.f1


def score_recall(response: str, answer: str, wrong_answer: str | None = None) -> float:
    """Score a response by the part that gives the answer: its recall of the answer, 0 to 100.

    Words of the answer that stand elsewhere do not count: a long response has "in" and "of"
    somewhere. A response that names the wrong answer scores 0.
    """
    found = align(response, answer)
    if found is None or names_wrong(response, wrong_answer, found):
        return 0.0
    return found.recall


def failure_kind(
    response: str, answer: str, wrong_answer: str | None = None, *, cut_off: bool = False
) -> FailureKind:
    """Classify why a response failed; ``cut_off`` says that it ended at its most tokens."""
    if not words(response):
        return "nothing said"
    if names_wrong(response, wrong_answer, align(response, answer)):
        return "wrong answer named"
    if _REFUSALS.search(response):
        return "refused"
    return "cut off" if cut_off else "other"


def exact_match(response: str, answers: Sequence[str]) -> float:
    """Score 100 where the response equals one of the answers, else 0."""
    given = _texts(response)
    return 100.0 * any(given == _texts(answer) for answer in answers)


def f1(response: str, answers: Sequence[str]) -> float:
    """Compute the response's highest token F1 against any answer, in per cent (qa_f1_score)."""
    given = _texts(response)
    return max(_overlap(given, wanted, 0.5) for wanted in map(_texts, answers))


def recall(response: str, answers: Sequence[str]) -> float:
    """Compute the highest fraction of any answer's words that the response holds, in per cent.

    ROUGE-1 recall (Lin 2004) on the words of this module, without stemming.
    """
    given = _texts(response)
    return max(_overlap(given, wanted, 0.0) for wanted in map(_texts, answers))


METRICS = {"exact_match": exact_match, "f1": f1, "recall": recall}
"""Grades of a response against right answers, in per cent."""

PASSED = "passed"
"""The grade that a task itself gives: 100 where the response passes, else 0."""


def _overlap(given: Sequence[str], wanted: Sequence[str], precision: float) -> float:
    """Count the words in common, in per cent of a weighted mean of both lengths."""
    common = (Counter(given) & Counter(wanted)).total()
    size = precision * len(given) + (1 - precision) * len(wanted)
    return 100 * common / size if common else 0.0


def _texts(text: str) -> list[str]:
    return [word.text for word in words(text)]

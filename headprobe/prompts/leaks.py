"""Find prompts that hold a needle, its watched text or its answer outside the watched span.

A head that reads it there finds the answer where nobody looks: its score is too low. Prompts with a
copy of the needle or of a watched sentence are refused. A few words may stand in prose by chance,
and do not answer the question there: these are warned of.
"""

from __future__ import annotations

import bisect
import itertools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headprobe.errors import HeadprobeWarning, UsageError
from headprobe.inputs.printable import brief
from headprobe.prompts.needles import Needle
from headprobe.prompts.spelling import count_words, first_word, normal_text

# A watched text of so many words does not stand elsewhere by chance.
_SENTENCE = 4
_AT_THE_ENDS = " .,;:!?'\"-。，；：！？"  # noqa: RUF001


@dataclass(frozen=True, kw_only=True)
class Leak:
    """A text that is to be found in a needle's span alone, and the ``place`` where it stands too.

    ``before`` is the number of haystack tokens before the sentence that ends it; -1 where it stands
    in every prompt of the needle. ``is_copy`` is true of the whole needle and of a watched
    sentence, false of a few words and of an answer.
    """

    needle_id: int
    text: str
    place: str
    before: int
    is_copy: bool


class ProseIndex:
    """Sentences of a haystack, to be searched for texts.

    Args:
        sentences: the sentences that were drawn.
        starts: the number of tokens before each of them.
    """

    def __init__(self, sentences: Sequence[str], starts: Sequence[int]) -> None:
        self._sentences, self._starts = sentences, starts
        normal = [normal_text(sentence) for sentence in sentences]
        self._text = " ".join(normal)
        self._ends = list(itertools.accumulate(len(sentence) + 1 for sentence in normal))

    def find(self, text: str) -> tuple[str, int] | None:
        """Return where a normal text stands first, and the tokens before its last sentence."""
        at = first_word(text, self._text)
        if at is None:
            return None
        last = bisect.bisect_right(self._ends, at + len(text) - 1)
        place = f"sentence {last + 1} of the haystack, {brief(self._sentences[last])}"
        return place, self._starts[last]


def find_leaks(needles: Mapping[int, Needle], prose: ProseIndex) -> list[Leak]:
    """Find texts outside their spans: in the haystack, the question or the rest of the needle."""
    leaks = []
    for number, needle in needles.items():
        rest = normal_text(f"{needle.text[: needle.start]} {needle.text[needle.stop :]}")
        own = {"its question": normal_text(needle.question), "the rest of the needle": rest}
        for text, is_copy in _texts_of(needle).items():
            places = [
                (name, -1) for name, told in own.items() if first_word(text, told) is not None
            ]
            places += [found] if (found := prose.find(text)) else []
            leaks += [
                Leak(needle_id=number, text=text, place=place, before=before, is_copy=is_copy)
                for place, before in places[:1]
            ]
    return leaks


def _texts_of(needle: Needle) -> dict[str, bool]:
    """Map the texts to look for to whether each is a copy where it stands elsewhere."""
    whole, watched, answer = (
        normal_text(part).strip(_AT_THE_ENDS)
        for part in (needle.text, needle.text[needle.start : needle.stop], needle.answer)
    )
    return {answer: False, watched: count_words(watched) >= _SENTENCE, whole: True}


def report_leaks(leaks: Sequence[Leak], prompts: Sequence[tuple[int, int]]) -> None:
    """Refuse copies that reach a prompt, and warn of other leaks that do, with the first place.

    Args:
        leaks: what was found.
        prompts: of each prompt its needle, and its number of haystack tokens.

    Raises:
        UsageError: a prompt holds a needle or a watched sentence twice.
    """
    reached = {
        leak: {at for at, (needle, size) in enumerate(prompts) if _reaches(leak, needle, size)}
        for leak in leaks
    }
    found = sorted((leak for leak, at in reached.items() if at), key=lambda leak: not leak.is_copy)
    if not found:
        return
    first = found[0]
    alike = [at for leak, at in reached.items() if leak.is_copy == first.is_copy]
    what = "the needle or the watched text" if first.is_copy else "the answer or the watched text"
    message = (
        f"{len(set().union(*alike))} of {len(prompts)} prompts hold {what} outside the span that "
        f"is looked at: of needle {first.needle_id} {brief(first.text)} stands in {first.place}; "
        "give another `haystack` or other `needles`"
    )
    if first.is_copy:
        raise UsageError(message)
    warnings.warn(message, HeadprobeWarning, stacklevel=2)


def _reaches(leak: Leak, needle_id: int, haystack: int) -> bool:
    return leak.needle_id == needle_id and leak.before < haystack

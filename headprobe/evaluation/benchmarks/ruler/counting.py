"""RULER's counting tasks: the most common words of a list, the most frequent words of a code."""

from __future__ import annotations

import math
import string
from dataclasses import dataclass
from random import Random

from headprobe.errors import UsageError
from headprobe.evaluation.benchmarks.ruler.sample import Sample, sample_of
from headprobe.evaluation.benchmarks.ruler.words import all_words, draw_words

COMMON = 10
SHORT = 4096
"""Prompts below this length list fewer words, fewer times."""


@dataclass(frozen=True, kw_only=True)
class CommonWords:
    """The ten most common words of a list; calling it makes a sample.

    The unit of its haystack is a different word. ``length`` is that of the prompt, by which RULER
    chooses how often words are listed.
    """

    length: int

    @property
    def least(self) -> int:
        """The fewest different words: the common ones and another."""
        return COMMON + 1

    def __call__(self, rng: Random, size: int) -> Sample:
        """Make a sample that lists ``size`` different words, after a worked example."""
        if size > len(all_words()):
            message = f"task cwe has no more than {len(all_words())} words: try shorter"
            raise UsageError(message, option="lengths", value=self.length)
        is_short = self.length < SHORT
        shown = _listed(rng, 20, 3, 1) if is_short else _listed(rng, 40, 10, 3)
        told = shown.context + shown.question + shown.answer_prefix
        answered = " ".join(f"{n}. {word}" for n, word in enumerate(shown.answers, start=1))
        often, seldom = (6, 1) if is_short else (30, 3)
        return _listed(rng, size, often, seldom, before=f"{told} {answered}\n")


def _listed(rng: Random, count: int, often: int, seldom: int, *, before: str = "") -> Sample:
    words = draw_words(rng, count)
    common, others = words[:COMMON], words[COMMON:]
    listed = common * often + others * seldom
    rng.shuffle(listed)
    numbered = " ".join(f"{n}. {word}" for n, word in enumerate(listed, start=1))
    return sample_of("cwe", numbered, tuple(common), before=before)


@dataclass(frozen=True, kw_only=True)
class FrequentWords:
    """The three most frequent words of a coded text; calling it makes a sample.

    The unit of its haystack is a coded word. Frequencies fall with the square of the rank (Zipf's
    law with exponent 2); the most frequent word is dots, which do not count. ``length`` is that of
    the prompt, a fiftieth of which is the number of different words.
    """

    length: int

    @property
    def least(self) -> int:
        """The fewest coded words that tell the first five ranks apart."""
        return 100

    def __call__(self, rng: Random, size: int) -> Sample:
        """Make a sample of about ``size`` coded words."""
        words: dict[str, None] = {}
        while len(words) < max(5, self.length // 50):
            words["".join(rng.choices(string.ascii_lowercase, k=6))] = None
        ranked = ["...", *list(words)[1:]]
        harmonic = math.pi**2 / 6
        text = [
            word
            for rank, word in enumerate(ranked, start=1)
            for _ in range(int(size / rank**2 / harmonic))
        ]
        rng.shuffle(text)
        return sample_of("fwe", " ".join(text), tuple(ranked[1:4]))

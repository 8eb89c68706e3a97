"""RULER's needles in a haystack: keys with values among essays, noise, or other needles."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from headprobe.evaluation.benchmarks.ruler.sample import Sample, sample_of
from headprobe.evaluation.benchmarks.ruler.words import NOISE, draw_value, essay_sentences

_NEEDLE = "One of the special magic {values} for {key} is: {value}."
_DEPTHS = [round(100 * step / 39) for step in range(40)]


@dataclass(frozen=True, kw_only=True)
class Needles:
    """A task of needles; calling it makes a sample.

    ``haystack`` is essay (its unit is a word), noise or needle (a sentence). There are ``keys``
    needles with ``values`` values each, ``queries`` of which are asked for.
    """

    haystack: str = "essay"
    key_kind: str = "words"
    value_kind: str = "numbers"
    keys: int = 1
    values: int = 1
    queries: int = 1

    @property
    def least(self) -> int:
        """The fewest units of haystack: sentences enough to part the needles."""
        return 50 if self.haystack == "essay" else self.keys * self.values

    def __call__(self, rng: Random, size: int) -> Sample:
        """Make a sample with ``size`` words or sentences around its needles."""
        told = {
            draw_value(self.key_kind, rng): [
                draw_value(self.value_kind, rng) for _ in range(self.values)
            ]
            for _ in range(max(self.keys, self.queries))
        }
        needles = [self._needle(key, value) for key, values in told.items() for value in values]
        rng.shuffle(needles)
        asked = rng.sample(list(told), self.queries)
        single = self.queries * self.values == 1
        *others, last = asked
        return sample_of(
            "niah",
            self._hide(needles, rng, size),
            tuple(value for key in asked for value in told[key]),
            single=single,
            kind=self.value_kind.removesuffix("s") if single else self.value_kind,
            query=f"{', '.join(others)}, and {last}" if others else last,
        )

    def _needle(self, key: str, value: str) -> str:
        return _NEEDLE.format(values=self.value_kind, key=key, value=value)

    def _hide(self, needles: list[str], rng: Random, size: int) -> str:
        if self.haystack == "essay":
            return _among_essays(needles, rng, size)
        if self.haystack == "noise":
            sentences = [NOISE] * size
        else:
            sentences = [
                self._needle(draw_value(self.key_kind, rng), draw_value(self.value_kind, rng))
                for _ in range(size)
            ]
        for place, needle in zip(
            sorted(rng.sample(range(size), len(needles)), reverse=True), needles, strict=True
        ):
            sentences.insert(place, needle)
        return "\n".join(sentences)


def _among_essays(needles: list[str], rng: Random, words: int) -> str:
    """Put needles at depths of their own, between sentences."""
    sentences = essay_sentences(words)
    depths = sorted(rng.sample(_DEPTHS, len(needles)))
    places = [len(sentences) * depth // 100 for depth in depths]
    pieces, last = [], 0
    for place, needle in zip(places, needles, strict=True):
        pieces += [*sentences[last:place], needle]
        last = place
    return " ".join([*pieces, *sentences[last:]])

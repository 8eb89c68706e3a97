"""RULER's variable tracking: a chain of assignments in noise, after a worked example."""

from __future__ import annotations

import string
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from headprobe.evaluation.benchmarks.ruler.sample import Sample, sample_of
from headprobe.evaluation.benchmarks.ruler.words import NOISE

EXAMPLE_SENTENCES = 15
"""Sentences of noise in the worked example: about the 500 tokens that RULER gives it."""


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """The task; calling it makes a sample. The unit of its haystack is a sentence of noise."""

    hops: int = 4

    @property
    def least(self) -> int:
        """The fewest sentences: those of the chain stand apart."""
        return self.hops + 1

    def __call__(self, rng: Random, size: int) -> Sample:
        """Make a sample with ``size`` sentences of noise."""
        example = self._one(rng, EXAMPLE_SENTENCES, letters=3)
        told = example.context + example.question + example.answer_prefix
        return self._one(rng, size, letters=5, before=f"{told} {' '.join(example.answers)}\n\n")

    def _one(self, rng: Random, size: int, *, letters: int, before: str = "") -> Sample:
        names: list[str] = []
        while len(names) < self.hops + 1:
            name = "".join(rng.choices(string.ascii_uppercase, k=letters))
            if name not in names:
                names.append(name)
        value = rng.randint(10_000, 99_998)
        chain = [f"VAR {names[0]} = {value}"]
        chain += [f"VAR {one} = VAR {other} " for other, one in pairwise(names)]
        sentences = [NOISE] * size
        for moved, place in enumerate(sorted(rng.sample(range(size), len(chain)))):
            sentences.insert(place + moved, chain[moved])
        return sample_of(
            "vt",
            "\n".join(sentences).replace(". \n", ".\n"),
            tuple(names),
            before=before,
            query=value,
            count=len(names),
        )

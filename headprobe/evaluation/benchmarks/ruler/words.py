"""Words and texts that RULER's tasks are made of: wonderwords' lists and the bundled essays."""

from __future__ import annotations

import uuid
from functools import cache
from random import Random

from headprobe.evaluation.benchmarks.extras import require
from headprobe.models.bundled import bundled
from headprobe.prompts.haystacks import split_sentences

NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."


def draw_value(kind: str, rng: Random) -> str:
    """Draw one of RULER's ``numbers`` (seven digits), ``words`` (two, hyphenated) or ``uuids``."""
    if kind == "numbers":
        return str(rng.randint(10**6, 10**7 - 1))
    if kind == "uuids":
        return str(uuid.UUID(int=rng.getrandbits(128), version=4))
    return f"{rng.choice(_list_of('adjective'))}-{rng.choice(_list_of('noun'))}"


def draw_words(rng: Random, count: int) -> list[str]:
    """Draw different nouns, adjectives and verbs."""
    return rng.sample(all_words(), count)


@cache
def all_words() -> list[str]:
    """List all nouns, adjectives and verbs, in order."""
    return sorted({word for kind in ("noun", "adjective", "verb") for word in _list_of(kind)})


@cache
def _list_of(kind: str) -> list[str]:
    package = require("wonderwords", extra="ruler", why="RULER's words")
    return sorted(set(package.RandomWord().filter(include_categories=[kind])))


@cache
def essay_words() -> list[str]:
    """List the words of the bundled English essays, in whose place RULER has Paul Graham's."""
    files = sorted(bundled("haystack", "english").iterdir())
    return " ".join(file.read_text(encoding="utf-8") for file in files).split()


def essay_sentences(words: int) -> list[str]:
    """Split the first words of the essays, which are told over as often as it takes."""
    told = essay_words()
    repeats = -(-words // len(told))
    return [*split_sentences([" ".join((told * repeats)[:words])])]

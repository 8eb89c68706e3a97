"""One generated question of RULER, and the search for the haystack that fills a length."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from headprobe.errors import UsageError
from headprobe.evaluation.benchmarks.ruler.templates import FAMILIES

_SHRINK = 50
"""A sample that is too long loses a fiftieth of its haystack, and so on until it fits."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A generated question: the text to read, the question, the opened answer, what is right."""

    context: str
    question: str
    answer_prefix: str
    answers: tuple[str, ...]


Make = Callable[[Random, int], Sample]
"""Makes a sample with so many units of haystack."""


def sample_of(
    family: str,
    context: str,
    answers: tuple[str, ...],
    *,
    before: str = "",
    single: bool = False,
    **slots: object,
) -> Sample:
    """Fill a family's template.

    Args:
        family: one of ``FAMILIES``.
        context: the text to read.
        answers: what is right.
        before: worked examples, which stand before all else.
        single: whether one value is asked for: the template then speaks in the singular.
        slots: what else the template names.
    """
    form = FAMILIES[family]
    texts = {"context": form.context, "question": form.question, "prefix": form.answer_prefix}
    filled = {
        name: _fill(_in_singular(text) if single else text, {**slots, "context": context})
        for name, text in texts.items()
    }
    return Sample(
        context=before + filled["context"],
        question=filled["question"],
        answer_prefix=filled["prefix"],
        answers=answers,
    )


def _in_singular(template: str) -> str:
    for plural, singular in (("Some", "A"), ("are all", "is"), ("are", "is")):
        template = template.replace(plural, singular)
    return template


def _fill(template: str, slots: Mapping[str, object]) -> str:
    for name, value in slots.items():
        template = template.replace(f"{{{name}}}", str(value))
    return template


def largest_size(
    make: Make, fits: Callable[[Sample], bool], *, least: int, most: int, rng: Callable[[], Random]
) -> int:
    """Search the most units of haystack with which a sample fits, as RULER does.

    Args:
        make: makes the sample.
        fits: tells whether a sample fits.
        least: the fewest units.
        most: the most units.
        rng: gives the same random numbers to every trial.

    Raises:
        UsageError: a sample with the fewest units does not fit.
    """
    if not fits(make(rng(), least)):
        raise UsageError("too short for this task of RULER", option="lengths")
    low, high = least, least
    while high < most and fits(make(rng(), min(2 * high, most))):
        high = min(2 * high, most)
        low = high
    high = min(2 * high, most)
    while low < high:
        middle = (low + high + 1) // 2
        if fits(make(rng(), middle)):
            low = middle
        else:
            high = middle - 1
    return low


def fitting_sample(
    make: Make,
    fits: Callable[[Sample], bool],
    *,
    size: int,
    least: int,
    rng: Callable[[], Random],
) -> Sample:
    """Make a sample with ``size`` units of haystack, or as many fewer as it takes to fit.

    Raises:
        UsageError: a sample with the fewest units does not fit.
    """
    sample = make(rng(), size)
    while not fits(sample):
        if size == least:
            raise UsageError("too short for this task of RULER", option="lengths")
        size = max(least, size - max(1, size // _SHRINK))
        sample = make(rng(), size)
    return sample

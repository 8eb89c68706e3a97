"""The tasks of RULER, and the samples of each without end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from random import Random

from headprobe.errors import UsageError
from headprobe.evaluation.benchmarks.ruler.counting import CommonWords, FrequentWords
from headprobe.evaluation.benchmarks.ruler.documents import Corpus, Documents
from headprobe.evaluation.benchmarks.ruler.needles import Needles
from headprobe.evaluation.benchmarks.ruler.sample import (
    Sample,
    fitting_sample,
    largest_size,
)
from headprobe.evaluation.benchmarks.ruler.tracking import Tracking

NEEDLES = {
    "niah_single_1": Needles(haystack="noise"),
    "niah_single_2": Needles(),
    "niah_single_3": Needles(value_kind="uuids"),
    "niah_multikey_1": Needles(keys=4),
    "niah_multikey_2": Needles(haystack="needle"),
    "niah_multikey_3": Needles(haystack="needle", key_kind="uuids", value_kind="uuids"),
    "niah_multivalue": Needles(values=4),
    "niah_multiquery": Needles(queries=4),
}
OF_DOCUMENTS = ("qa_1", "qa_2")
"""Tasks that take the paragraphs of SQuAD and of HotpotQA from a file."""
TASKS = (*NEEDLES, "vt", "cwe", "fwe", *OF_DOCUMENTS)

Task = Needles | Tracking | CommonWords | FrequentWords | Documents
Fits = Callable[[Sample], bool]


def generate(
    task: str, *, length: int, seed: int, fits: Fits, corpus: Corpus | None = None
) -> Iterator[Sample]:
    """Yield a task's samples without end, or as many as the corpus has questions.

    A sample depends on the task, the length, the seed and its number alone.

    Args:
        task: one of ``TASKS``.
        length: tokens of a prompt and its answer; a prompt takes as much haystack as fits.
        seed: draws everything.
        fits: tells whether a sample's prompt and answer take at most ``length`` tokens.
        corpus: the documents of a task ``OF_DOCUMENTS``.

    Raises:
        UsageError: the length is too short for the task.
    """
    if corpus is not None:
        makes: Iterator[Task] = (
            Documents(corpus=corpus, asked=asked) for asked in corpus.questions
        )
        most = len(corpus.documents)
    else:
        makes, most = _endless(_make(task, length)), length
    size = None
    for number, make in enumerate(makes):
        rng = partial(Random, f"{seed}/{task}/{length}/{number}")
        try:
            if size is None:
                size = largest_size(make, fits, least=make.least, most=most, rng=rng)
            size = max(size, make.least)
            yield fitting_sample(make, fits, size=size, least=make.least, rng=rng)
        except UsageError as error:
            raise UsageError(error.message, option="lengths", value=length) from error


def _make(task: str, length: int) -> Task:
    if task in NEEDLES:
        return NEEDLES[task]
    if task == "vt":
        return Tracking()
    return CommonWords(length=length) if task == "cwe" else FrequentWords(length=length)


def _endless(make: Task) -> Iterator[Task]:
    while True:
        yield make

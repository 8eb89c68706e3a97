"""RULER's questions over documents: a paragraph of SQuAD or HotpotQA among others.

The paragraphs come from a file of the user's: SQuAD as published or as on the hub, HotpotQA's
distractor rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from headprobe.errors import UsageError
from headprobe.evaluation.benchmarks.rows import paragraphs, parse_row
from headprobe.evaluation.benchmarks.ruler.sample import Sample, sample_of
from headprobe.inputs.strict_json import as_object
from headprobe.prompts.data_sets import question_rows


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question, its answers, the documents that answer it, and those of the same article."""

    question: str
    answers: tuple[str, ...]
    own: tuple[int, ...]
    alike: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Corpus:
    """Documents, and questions about them."""

    documents: Sequence[str]
    questions: Sequence[Asked]


@dataclass(frozen=True, eq=False, kw_only=True)
class Documents:
    """A task of questions over documents; calling it makes a sample of ``asked``.

    The unit of the haystack is a document.
    """

    corpus: Corpus
    asked: Asked

    @property
    def least(self) -> int:
        """The fewest documents: those that answer the question."""
        return len(self.asked.own)

    def __call__(self, rng: Random, size: int) -> Sample:
        """Make a sample with ``size`` documents, first those of the question's article."""
        own, documents = self.asked.own, self.corpus.documents
        missing = size - len(own)
        alike = self.asked.alike
        if missing <= len(alike):
            chosen = [*own, *rng.sample(alike, missing)]
        else:
            known = {*own, *alike}
            others = [number for number in range(len(documents)) if number not in known]
            more = rng.sample(others, min(missing - len(alike), len(others)))
            chosen = [*own, *alike, *more]
        rng.shuffle(chosen)
        told = (f"Document {n}:\n{documents[d]}" for n, d in enumerate(chosen, start=1))
        return sample_of("qa", "\n\n".join(told), self.asked.answers, query=self.asked.question)


def read_corpus(source: str | Path) -> Corpus:
    """Read the paragraphs and questions of SQuAD or HotpotQA.

    Raises:
        UsageError: the source cannot be read, or holds no question over paragraphs.
        HeadprobeError: a data set cannot be loaded.
    """
    told: list[tuple[str, list[str], list[str], tuple[str, ...]]] = []
    for place, row in question_rows(source):
        try:
            told += _told(as_object(row))
        except ValueError as error:
            raise UsageError(f"{source}, {place}: {error}") from error
    if not told:
        raise UsageError(f"{source} holds no question over paragraphs, as SQuAD or HotpotQA do")
    documents = sorted({text for _, own, alike, _ in told for text in (*own, *alike)})
    number = {text: n for n, text in enumerate(documents)}
    questions = [
        Asked(
            question=question,
            answers=answers,
            own=tuple(dict.fromkeys(number[text] for text in own)),
            alike=tuple(sorted({number[text] for text in alike} - {number[text] for text in own})),
        )
        for question, own, alike, answers in told
    ]
    return Corpus(documents=documents, questions=questions)


def _told(fields: Mapping[str, Any]) -> list[tuple[str, list[str], list[str], tuple[str, ...]]]:
    """Return the questions of a row: with their own paragraphs, the article's, and the answers."""
    rows = parse_row(fields)
    if any(row.schema not in ("squad", "hotpotqa") for row in rows):
        raise ValueError("expected a row of SQuAD or HotpotQA")
    if rows and rows[0].schema == "hotpotqa":
        return [(row.question, paragraphs(fields), [], row.answers) for row in rows]
    told = []
    for article in fields.get("data", [fields]):
        asked = parse_row({"data": [article]}) if "data" in fields else rows
        alike = list(dict.fromkeys(row.context for row in asked)) if "data" in fields else []
        told += [(row.question, [row.context], alike, row.answers) for row in asked]
    return told

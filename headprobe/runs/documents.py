"""Draw cases from documents: a question, and a window of its document around the evidence."""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from headprobe.errors import HeadprobeWarning, UsageError
from headprobe.files import json_digest
from headprobe.inputs.strict_json import as_object
from headprobe.prompts.build import HiddenNeedle, surround, tokenize_needle
from headprobe.prompts.case import Case
from headprobe.prompts.data_sets import question_rows, source_digest
from headprobe.prompts.documents import AskedOfDocument, Document, loogle_document
from headprobe.prompts.grid import choose_lengths
from headprobe.prompts.haystacks import split_sentences
from headprobe.prompts.needles import Needle, language_of
from headprobe.prompts.sampling import balanced_cells
from headprobe.prompts.style import PromptOptions, describe_options
from headprobe.runs.draw import ANSWER_RESERVE, DrawnCases, longest_prompt, prompt_writer
from headprobe.runs.identity import Plan

if TYPE_CHECKING:
    from headprobe.models.loading import LoadedModel
    from headprobe.prompts.spec import CaseSpec
    from headprobe.prompts.tokenize import PieceTokenizer
    from headprobe.tasks import Probe

LENGTH = 2000
"""Tokens of a prompt, by default."""
RULE = (
    "the longest passage of the evidence that stands in the document, a sentence of it where none "
    "does; of the tokens around it as many before and after as keep its place"
)
"""The rule by which a document is cut to a length; a plan records it."""


def draw_documents(
    loaded: LoadedModel, probe: Probe, spec: CaseSpec, *, prompt: PromptOptions | None = None
) -> DrawnCases:
    """Draw a case for every question about the documents of ``spec`` and every length.

    Documents are cut by ``RULE`` to prompts of exactly the wanted lengths; those that are shorter
    are read whole. A warning counts questions whose evidence does not stand in their document.

    Args:
        loaded: the model.
        probe: the kind of cases.
        spec: the ``questions``, the ``lengths`` and the ``limit``.
        prompt: the form of prompts.

    Raises:
        UsageError: an option does not apply, a row cannot be used, or a length does not fit.
        HeadprobeError: a data set of the hub cannot be loaded.
    """
    for option in ("depths", "needles", "haystack", "text"):
        if getattr(spec, option) is not None:
            message = "evidence stands where the document has it: leave it out"
            raise UsageError(message, option=option, value=getattr(spec, option))
    if spec.questions is None:
        raise UsageError("task evidence asks about documents: give `questions` rows of LooGLE")
    longest = longest_prompt(loaded.max_context, answer_reserve=ANSWER_RESERVE)
    default = (LENGTH if longest is None else min(LENGTH, longest),)
    lengths = choose_lengths(spec.lengths or default, longest=longest)
    told = [*_told(spec.questions)]
    needles = [one.needle for one in told]
    prompt = prompt or PromptOptions()
    writer = prompt_writer(loaded, probe, needles, prompt)
    documents = _tokenize(told, writer.pieces)
    seed = spec.seed or 0
    grid = [(number, length, 0.0) for number in range(len(told)) for length in lengths]
    order = [*balanced_cells(grid, seed)][: spec.limit]
    cases = [
        _case(
            tokenize_needle(needles[number], writer),
            documents[told[number].text],
            told[number],
            case_id=case_id,
            needle_id=number,
            length=length,
        )
        for case_id, (number, length, _) in enumerate(grid[cell] for cell in sorted(order))
    ]
    end = max(case.length + probe.max_new_tokens(case) for case in cases)
    if loaded.max_context is not None and end > loaded.max_context:
        raise UsageError(
            f"a prompt and its answer take {end} tokens, the model takes {loaded.max_context}: "
            "try shorter `lengths`"
        )
    language = language_of(" ".join(needle.text for needle in needles))
    return DrawnCases(
        cases=cases,
        needles=needles,
        possible=len(grid),
        plan=Plan(
            identity={
                "lengths": lengths,
                "truncation": RULE,
                "questions_digest": source_digest(spec.questions),
                "needles_digest": json_digest([asdict(needle) for needle in needles]),
                "prompt_style": writer.style,
                **describe_options(prompt, loaded.tokenizer, language=language),
                "seed": seed,
            },
            labels={"questions": spec.questions, "limit": spec.limit},
        ),
        writer=writer,
    )


@dataclass(frozen=True, kw_only=True)
class _Told:
    """A question as a needle, and its document's text with the offsets of the evidence in it."""

    needle: Needle
    text: str
    start: int
    end: int


@dataclass(frozen=True, eq=False, kw_only=True)
class _Tokens:
    """A document's tokens, and how many of them stand before some of its characters."""

    ids: Sequence[int]
    before: Mapping[int, int]


def _told(source: str) -> Iterator[_Told]:
    """Yield the questions with evidence, document by document.

    Raises:
        UsageError: no question has evidence that stands in its document.
    """
    asked = lost = 0
    for place, row in question_rows(source):
        try:
            document = loogle_document(as_object(row))
        except ValueError as error:
            raise UsageError(f"{source}, {place}: {error}") from error
        for question in document.questions:
            asked += 1
            found = _evidence(question, document)
            if found is None:
                lost += 1
                continue
            start, end = found
            text = document.text[start:end]
            needle = Needle(
                text=text,
                question=question.question,
                answer=question.answer,
                start=0,
                stop=len(text),
                kind=document.task,
            )
            yield _Told(needle=needle, text=document.text, start=start, end=end)
    if lost == asked:
        raise UsageError(f"{source}: no question has evidence that stands in its document")
    if lost:
        warnings.warn(
            f"{lost} of {asked} questions have no evidence that stands in their document: they are "
            "left out",
            HeadprobeWarning,
            stacklevel=2,
        )


def _evidence(question: AskedOfDocument, document: Document) -> tuple[int, int] | None:
    """Find the longest passage of a question's evidence in its document, else its sentence."""
    whole = [_find(passage, document.text) for passage in question.evidence]
    parts = (part for passage in question.evidence for part in split_sentences([passage]))
    found = [*filter(None, whole)] or [*filter(None, (_find(one, document.text) for one in parts))]
    return max(found, key=lambda place: place[1] - place[0], default=None)


def _find(passage: str, text: str) -> tuple[int, int] | None:
    """Find a passage whatever its white space; character offsets, half open."""
    pattern = r"\s+".join(map(re.escape, passage.split()))
    found = re.search(pattern, text) if pattern else None
    return found.span() if found else None


def _tokenize(told: Iterable[_Told], pieces: PieceTokenizer) -> dict[str, _Tokens]:
    """Tokenize documents once, each in the pieces into which the evidence of its questions cuts it.

    So the prompts of a document's questions share it. A space stands before each piece of evidence.
    """
    places: dict[str, list[_Told]] = {}
    for one in told:
        places.setdefault(one.text, []).append(one)
    found = {}
    for text, asked in places.items():
        starts = {one.start for one in asked}
        cuts = sorted({0, *starts, *(one.end for one in asked), len(text)})
        ids: list[int] = []
        before = {}
        for start, end in itertools.pairwise(cuts):
            before[start] = len(ids)
            piece = text[start:end].rstrip() if end in starts else text[start:end]
            spaced = start == 0 or start in starts
            ids += pieces.encode(" " * spaced + piece) if piece else []
        found[text] = _Tokens(ids=ids, before={**before, len(text): len(ids)})
    return found


def _case(
    needle: HiddenNeedle,
    document: _Tokens,
    told: _Told,
    *,
    case_id: int,
    needle_id: int,
    length: int,
) -> Case:
    """Build a prompt of ``length`` tokens, or a shorter one of the whole document."""
    start, end = document.before[told.start], document.before[told.end]
    left, watched, right = document.ids[:start], document.ids[start:end], document.ids[end:]
    evidence = replace(needle, tokens=list(watched), span_start=0, span_end=len(watched))
    capacity = length - evidence.size
    if capacity < 0:
        raise UsageError(
            f"too short for evidence {needle_id} and its question; expected at least "
            f"{evidence.size}",
            option="lengths",
            value=length,
        )
    capacity = min(capacity, len(left) + len(right))
    place = len(left) / max(1, len(left) + len(right))
    most_left, least_left = min(len(left), capacity), max(0, capacity - len(right))
    kept = min(max(round(place * capacity), least_left), most_left)
    return surround(
        evidence,
        left[len(left) - kept :],
        right[: capacity - kept],
        case_id=case_id,
        needle_id=needle_id,
    )

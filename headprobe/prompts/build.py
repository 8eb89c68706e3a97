"""Cases: needles put into a haystack, exact to the token, watched spans known by construction."""

from __future__ import annotations

import bisect
import itertools
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

from headprobe.errors import HeadprobeWarning, UsageError
from headprobe.prompts.needles import Needle
from headprobe.prompts.template import INSTRUCTION, NO_QUESTION

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_MARK = "CONTEXT-STANDS-HERE"
_WORD, _BREAK = "a", "\n"
# How far from the wanted depth a needle may stand, as a share of the haystack: half of the standard
# grid's step.
NEAR = 0.05
# Templates that name today's date are to give the same prompts on every day. The line break is one
# that transformers drops behind a block.
_ONE_DAY = """{% macro strftime_now(format) %}
{{- "2024-07-26" if format == "%Y-%m-%d" else "26 Jul 2024" -}}
{% endmacro %}
"""
# What the templates of models that think first end with, and what makes them answer at once.
_AT_ONCE = {
    "<think>": "\n</think>\n\n",
    "<|start|>assistant": "<|channel|>final<|message|>",
}


@dataclass(frozen=True, kw_only=True)
class QuestionSpan:
    """The tokens of a prompt's question, ``start`` to ``end``, half open.

    ``blank_ids`` are the tokens that stand from ``start`` on where nothing is asked: "N/A".
    """

    start: int
    end: int
    blank_ids: tuple[int, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Case:
    """One prompt with a known answer.

    ``length`` counts the tokens of the whole prompt, special tokens included; ``depth`` is the
    needle's place in per cent of the haystack, ``position`` the token index of its first token.
    ``span_start`` and ``span_end`` (half open) bound the watched tokens. ``answer_ids`` are the
    tokens of ``answer`` as the model would write it. ``question`` says where it stands, behind the
    span, if the prompt asks one.
    """

    case_id: int
    needle_id: int
    length: int
    depth: float
    position: int
    input_ids: tuple[int, ...]
    span_start: int
    span_end: int
    answer: str
    answer_ids: tuple[int, ...]
    question: QuestionSpan | None = None

    def __post_init__(self) -> None:
        if len(self.input_ids) != self.length:
            raise ValueError(f"expected {self.length} tokens, got {len(self.input_ids)}")
        if not 0 <= self.position <= self.span_start < self.span_end <= self.length:
            raise ValueError(
                f"expected a span inside the prompt, got {self.span_start} to {self.span_end}"
            )
        asked = self.question
        if asked and not self.span_end <= asked.start < asked.end < self.length:
            raise ValueError(
                f"expected a question between span and end, got {asked.start} to {asked.end}"
            )

    @property
    def span(self) -> slice:
        """The watched tokens as a slice of the prompt."""
        return slice(self.span_start, self.span_end)


class PieceTokenizer:
    """Tokenizes the pieces of a prompt one by one, as they read in the middle of a text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        special = {*tokenizer.all_special_tokens, *(str(token) for token in added if token.special)}
        self._inside_special = _behind_first_letter(special)

    def encode(self, text: str) -> list[int]:
        """The tokens of ``text`` as it reads in the middle of a text; never a special token."""
        # What spells a special token is cut in two. To ask the tokenizer to split it would not do:
        # some vocabularies hold the spelling as a plain piece too.
        parts = self._inside_special.split(text)
        return [token for part in parts for token in self._inside(part)]

    def _inside(self, text: str) -> list[int]:
        # Behind an anchor that is cut off again: tokenizers treat the start of a text unlike its
        # middle. A word stands behind a line break, since it would merge with another word.
        anchor = _BREAK if text[:1].isalnum() else _WORD
        head, ids = self._plain(anchor), self._plain(anchor + text)
        return ids[len(head) :] if ids[: len(head)] == head else self._plain(text)

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def frame(self) -> tuple[list[int], list[int], bool]:
        """Tokens before the context, tokens behind the question, and whether it is a chat.

        A chat model gets its chat template around context and question, any other model what its
        tokenizer puts at the start of a text.

        Raises:
            UsageError: the chat template does not work, or drops the text.
        """
        if self._tokenizer.chat_template:
            before, found, behind = self._templated(_MARK).partition(_MARK)
            if not found:
                raise UsageError("the model's chat template drops the user's text")
            rest = (more for end, more in _AT_ONCE.items() if behind.rstrip().endswith(end))
            return self._plain(before), self._inside(behind + next(rest, "")), True
        whole = self._tokenizer(_WORD)["input_ids"]
        return whole[: whole.index(self._plain(_WORD)[0])], [], False

    def _templated(self, text: str) -> str:
        """A text as a user's turn."""
        from jinja2 import TemplateError

        try:
            template = self._tokenizer.get_chat_template()
            # Models that think first would spend the watched steps on it.
            return str(
                self._tokenizer.apply_chat_template(
                    [{"role": "user", "content": text}],
                    chat_template=(_ONE_DAY if "strftime_now" in template else "") + template,
                    tokenize=False,
                    add_generation_prompt=True,
                    enable_thinking=False,
                )
            )
        except (ValueError, TemplateError) as error:
            problem, *_ = str(error).split("\n")
            raise UsageError(f"the model's chat template cannot be used: {problem}") from error


def _behind_first_letter(spellings: Iterable[str]) -> re.Pattern[str]:
    """Matches the place behind the first letter of each spelling."""
    rests = defaultdict(list)
    for spelling in spellings:
        if len(spelling) > 1:
            rests[spelling[0]].append(re.escape(spelling[1:]))
    places = [f"(?<={re.escape(first)})(?={'|'.join(rest)})" for first, rest in rests.items()]
    return re.compile("|".join(places) or "(?!)")


@dataclass(frozen=True, eq=False, kw_only=True)
class HiddenNeedle:
    """A needle's tokens, and everything of its prompt but the haystack.

    ``span_start`` and ``span_end`` bound the watched ones of ``tokens``; ``head`` stands before the
    haystack, ``tail`` is the question and what follows it. ``question`` counts from the start of
    ``tail``.
    """

    tokens: list[int]
    span_start: int
    span_end: int
    head: list[int]
    tail: list[int]
    answer: str
    answer_ids: list[int]
    question: QuestionSpan

    @property
    def size(self) -> int:
        """Tokens of the prompt beside the haystack."""
        return len(self.head) + len(self.tokens) + len(self.tail)


def tokenize_needle(needle: Needle, pieces: PieceTokenizer) -> HiddenNeedle:
    """A needle as it stands in every prompt of it."""
    text = " " + needle.text
    start, stop = needle.start + 1, needle.stop + 1
    if text[start - 1] == " ":
        start -= 1
    parts = text[:start], text[start:stop], text[stop:]
    before, watched, behind = (pieces.encode(part) for part in parts)
    head, tail, chat = pieces.frame()
    return HiddenNeedle(
        tokens=[*before, *watched, *behind],
        span_start=len(before),
        span_end=len(before) + len(watched),
        head=head,
        tail=[*pieces.encode(INSTRUCTION.format(question=needle.question)), *tail],
        answer=needle.answer,
        answer_ids=pieces.encode(needle.answer if chat else " " + needle.answer),
        question=_find_question(needle.question, pieces),
    )


def _find_question(question: str, pieces: PieceTokenizer) -> QuestionSpan:
    """Where the question's tokens stand in the instruction, one that merged with it included."""
    before, _, behind = (pieces.encode(part) for part in INSTRUCTION.partition("{question}"))
    asked, blank = (
        pieces.encode(INSTRUCTION.format(question=text)) for text in (question, NO_QUESTION)
    )
    start = min(_common(before, asked), _common(before, blank))
    end, blank_end = (
        len(whole) - max(1, _common(behind[::-1], whole[::-1])) for whole in (asked, blank)
    )
    return QuestionSpan(start=start, end=end, blank_ids=tuple(blank[start:blank_end]))


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two texts begin with in common."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


class _Haystack:
    """Tokens of endless sentences, drawn as far as they are needed, and where sentences start."""

    def __init__(self, sentences: Iterator[str], pieces: PieceTokenizer) -> None:
        self._sentences = sentences
        self._pieces = pieces
        self.tokens: list[int] = []
        self.starts: list[int] = [0]

    def reach(self, length: int) -> None:
        while len(self.tokens) < length:
            self.tokens += self._pieces.encode(" " + next(self._sentences))
            self.starts.append(len(self.tokens))

    def boundary(self, room: int, wanted: float) -> int:
        """The sentence start nearest to ``wanted`` in the first ``room`` tokens."""
        self.reach(room)
        reachable = self.starts[: bisect.bisect_right(self.starts, room)]
        return min(reachable, key=lambda start: abs(start - wanted))

    def openings(
        self, rooms: Mapping[int, int], depths: Sequence[float]
    ) -> dict[tuple[int, float], int]:
        """Where to put a needle for every length and depth: at few sentence starts in all.

        Prompts with a needle at one place share what stands around it, up to where the shorter one
        ends. So from the longest length on, a place that another length has is taken again where
        it lies near enough. ``rooms`` are the tokens of haystack at each length.
        """
        places: set[int] = set()
        chosen: dict[tuple[int, float], int] = {}
        for length, room in sorted(rooms.items(), reverse=True):
            free = {place for place in places if place <= room}
            for depth in depths:
                wanted = depth / 100 * room
                nearest = min(free, key=lambda place: abs(place - wanted), default=None)
                if nearest is None or abs(nearest - wanted) > NEAR * room:
                    nearest = self.boundary(room, wanted)
                free.discard(nearest)
                places.add(nearest)
                chosen[length, depth] = nearest
        return chosen


def hide_needles(
    needles: Sequence[Needle],
    *,
    sentences: Iterator[str],
    tokenizer: PreTrainedTokenizerBase,
    lengths: Sequence[int],
    depths: Sequence[float],
    limit: int | None = None,
    seed: int = 0,
) -> list[Case]:
    """One case for every needle, length and depth, or ``limit`` of them, balanced over all three.

    The haystack is cut so that the whole prompt has exactly the wanted length; the needle stands
    at a sentence boundary near the wanted depth, one that several lengths share if it can be. A
    case's ``depth`` is the one that it got.

    Raises:
        UsageError: a length is too short for a needle and its question.
    """
    pieces = PieceTokenizer(tokenizer)
    hidden = [tokenize_needle(needle, pieces) for needle in needles]
    haystack = _Haystack(sentences, pieces)
    grid = list(itertools.product(range(len(needles)), lengths, depths))
    if limit is not None and limit < len(grid):
        grid = [grid[i] for i in sorted(itertools.islice(balanced(grid, seed), limit))]
    openings = {
        needle: haystack.openings(_rooms(needle, hidden[needle], lengths), depths)
        for needle in sorted({needle for needle, _, _ in grid})
    }
    cases = [
        _place(
            hidden[needle],
            haystack,
            at=openings[needle][length, depth],
            case_id=i,
            needle_id=needle,
            length=length,
        )
        for i, (needle, length, depth) in enumerate(grid)
    ]
    distinct = len({(case.needle_id, case.length, case.position) for case in cases})
    if 2 * distinct < len(cases):
        warnings.warn(
            f"the haystack's sentences are so long that {len(cases)} cases are {distinct} prompts: "
            "try longer --lengths, fewer --depths or another --haystack",
            HeadprobeWarning,
            stacklevel=2,
        )
    return cases


def _rooms(needle_id: int, needle: HiddenNeedle, lengths: Sequence[int]) -> dict[int, int]:
    """The tokens of haystack beside a needle in prompts of some lengths."""
    if min(lengths) < needle.size:
        raise UsageError(
            f"a length of {min(lengths)} tokens is too short for needle {needle_id} and its "
            f"question; it takes at least {needle.size}"
        )
    return {length: length - needle.size for length in lengths}


def _place(
    needle: HiddenNeedle,
    haystack: _Haystack,
    *,
    at: int,
    case_id: int,
    needle_id: int,
    length: int,
) -> Case:
    room = length - needle.size
    haystack.reach(room)
    position = len(needle.head) + at
    tail = length - len(needle.tail)
    return Case(
        case_id=case_id,
        needle_id=needle_id,
        length=length,
        depth=100 * at / room if room else 0.0,
        position=position,
        input_ids=(
            *needle.head,
            *haystack.tokens[:at],
            *needle.tokens,
            *haystack.tokens[at:room],
            *needle.tail,
        ),
        span_start=position + needle.span_start,
        span_end=position + needle.span_end,
        answer=needle.answer,
        answer_ids=tuple(needle.answer_ids),
        question=QuestionSpan(
            start=tail + needle.question.start,
            end=tail + needle.question.end,
            blank_ids=needle.question.blank_ids,
        ),
    )


def balanced(grid: Sequence[tuple[int, int, float]], seed: int) -> Iterator[int]:
    """Places of all (needle, length, depth) cells of a grid, in an order with balanced prefixes.

    However few of them are taken, each value of an axis is among them about equally often. Next is
    always the cell whose needle was taken least, then its length with its depth, then either of
    them, then its needle with either; the seed decides between equals.
    """
    needle, length, depth = (
        np.unique(axis, return_inverse=True)[1] for axis in zip(*grid, strict=True)
    )
    levels = (
        (needle,),
        (_pairs(length, depth),),
        (length, depth),
        (_pairs(needle, length), _pairs(needle, depth)),
    )
    taken = [np.zeros(len(grid), dtype=int) for _ in levels]
    tie = np.random.default_rng(seed).permutation(len(grid))
    free = np.ones(len(grid), dtype=bool)
    for _ in grid:
        left = np.flatnonzero(free)
        for count in (*taken, tie):
            left = left[count[left] == count[left].min()]
        cell = int(left[0])
        free[cell] = False
        for count, level in zip(taken, levels, strict=True):
            for values in level:
                count += values == values[cell]
        yield cell


def visiting_order(cases: Sequence[Case], seed: int) -> list[Case]:
    """The cases in an order of which every prefix is balanced over needles, lengths and depths."""
    grid = [(case.needle_id, case.length, round(case.depth, -1)) for case in cases]
    return [cases[i] for i in balanced(grid, seed)]


def _pairs(
    one: Int[np.ndarray, " cell"], other: Int[np.ndarray, " cell"]
) -> Int[np.ndarray, " cell"]:
    both: np.ndarray = one * (other.max() + 1) + other
    return both

"""Hide needles in a haystack, exact to the token, so that the watched span is known."""

from __future__ import annotations

import bisect
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from headprobe.errors import HeadprobeWarning, UsageError
from headprobe.prompts.case import Case, QuestionSpan
from headprobe.prompts.leaks import ProseIndex, find_leaks, report_leaks
from headprobe.prompts.needles import Needle
from headprobe.prompts.prefix import common_prefix
from headprobe.prompts.sampling import balanced_cells
from headprobe.prompts.style import PromptWriter
from headprobe.prompts.template import NO_QUESTION, fill_in
from headprobe.prompts.tokenize import PieceTokenizer

# The farthest that a needle may stand from the wanted depth, as a fraction of the haystack: half of
# the standard grid's step.
NEAR = 0.05


@dataclass(frozen=True, eq=False, kw_only=True)
class HiddenNeedle:
    """A needle's tokens, and all other tokens of its prompt except the haystack.

    ``span_start`` and ``span_end`` (half open) bound the watched part of ``tokens``; ``head``
    stands before the haystack, ``tail`` is the question and the text after it. The offsets of
    ``question`` count from the start of ``tail``.
    """

    tokens: list[int]
    span_start: int
    span_end: int
    head: list[int]
    tail: list[int]
    answer: str
    wrong_answer: str | None
    answer_ids: list[int]
    kind: str | None
    question: QuestionSpan

    @property
    def size(self) -> int:
        """The number of the prompt's tokens without the haystack."""
        return len(self.head) + len(self.tokens) + len(self.tail)


def tokenize_needle(needle: Needle, writer: PromptWriter) -> HiddenNeedle:
    """Tokenize a needle, its question and its chat affixes, the same for all its prompts."""
    encode, chat_affixes = writer.pieces.encode, writer.chat_affixes(needle)
    text = " " + needle.text
    start, stop = needle.start + 1, needle.stop + 1
    if text[start - 1] == " ":
        start -= 1
    parts = text[:start], text[start:stop], text[stop:]
    before, watched, after = (encode(part) for part in parts)
    return HiddenNeedle(
        tokens=[*before, *watched, *after],
        span_start=len(before),
        span_end=len(before) + len(watched),
        head=list(chat_affixes.head),
        tail=[
            *encode(fill_in(chat_affixes.instruction, needle.question)),
            *chat_affixes.tail,
        ],
        answer=needle.answer,
        wrong_answer=needle.wrong_answer,
        answer_ids=chat_affixes.answer_ids(needle.answer, writer.pieces),
        kind=needle.kind,
        question=_find_question(needle.question, chat_affixes.instruction, writer.pieces),
    )


def _find_question(question: str, instruction: str, pieces: PieceTokenizer) -> QuestionSpan:
    """Find the question's tokens in the instruction, including tokens merged with its text."""
    before, _, after = (pieces.encode(part) for part in instruction.partition("{question}"))
    asked, blank = (pieces.encode(fill_in(instruction, text)) for text in (question, NO_QUESTION))
    start = min(common_prefix(before, asked), common_prefix(before, blank))
    end, blank_end = (
        len(whole) - (max(1, common_prefix(after[::-1], whole[::-1])) if after else 0)
        for whole in (asked, blank)
    )
    return QuestionSpan(start=start, end=end, blank_ids=tuple(blank[start:blank_end]))


class _Haystack:
    """Tokens of endless sentences, drawn as far as needed, and the places of sentence starts."""

    def __init__(self, sentences: Iterator[str], pieces: PieceTokenizer) -> None:
        self._endless = sentences
        self._pieces = pieces
        self.sentences: list[str] = []
        self.tokens: list[int] = []
        self.starts: list[int] = [0]

    def reach(self, length: int) -> None:
        while len(self.tokens) < length:
            self.sentences.append(next(self._endless))
            self.tokens += self._pieces.encode(f" {self.sentences[-1]}")
            self.starts.append(len(self.tokens))

    def boundary(self, capacity: int, wanted: float) -> int:
        """Find the sentence start nearest to ``wanted`` in the first ``capacity`` tokens."""
        self.reach(capacity)
        reachable = self.starts[: bisect.bisect_right(self.starts, capacity)]
        return min(reachable, key=lambda start: abs(start - wanted))

    def needle_positions(
        self, capacities: Mapping[int, int], depths: Sequence[float]
    ) -> dict[tuple[int, float], int]:
        """Choose a needle's position for every length and depth, with few distinct positions.

        Prompts with the needle at one position share a prefix, up to the end of the shorter one.
        So from the longest length down, the position of another length is used again where it is
        near enough to the wanted depth.

        Args:
            capacities: the number of haystack tokens at each length.
            depths: the wanted depths in per cent.
        """
        places: set[int] = set()
        chosen: dict[tuple[int, float], int] = {}
        for length, capacity in sorted(capacities.items(), reverse=True):
            free = {place for place in places if place <= capacity}
            for depth in depths:
                wanted = depth / 100 * capacity
                nearest = min(free, key=lambda place: abs(place - wanted), default=None)
                if nearest is None or abs(nearest - wanted) > NEAR * capacity:
                    nearest = self.boundary(capacity, wanted)
                free.discard(nearest)
                places.add(nearest)
                chosen[length, depth] = nearest
        return chosen


def hide_needles(
    needles: Sequence[Needle],
    *,
    sentences: Iterator[str],
    writer: PromptWriter,
    lengths: Sequence[int],
    depths: Sequence[float],
    limit: int | None = None,
    seed: int = 0,
) -> list[Case]:
    """Build one case for every needle, length and depth, or ``limit`` of them.

    The haystack is cut so that the whole prompt has exactly the wanted length; the needle stands
    at a sentence boundary near the wanted depth, if possible one that several lengths share. A
    case's ``depth`` is the depth of that boundary. A warning tells of prompts that hold a needle's
    answer outside its span.

    Args:
        needles: the needles to hide.
        sentences: endless prose.
        writer: frames prompts with the question and the chat template.
        lengths: tokens of whole prompts.
        depths: needle places in per cent of the haystack.
        limit: the most cases, balanced over needles, their kinds, lengths and depths; of equally
            balanced cases those that share most tokens. A larger limit takes the same and more.
        seed: chooses the cases under ``limit``.

    Raises:
        UsageError: a length is too short for a needle and its question, or a prompt holds a needle
            or its watched sentence outside the span too.
    """
    hidden = [tokenize_needle(needle, writer) for needle in needles]
    haystack = _Haystack(sentences, writer.pieces)
    grid = list(itertools.product(range(len(needles)), lengths, depths))
    positions = _positions(hidden, haystack, grid)
    if limit is not None and limit < len(grid):
        kinds = [needle.kind for needle in needles]
        order = balanced_cells(grid, seed, kinds=kinds, positions=positions)
        chosen = sorted(itertools.islice(order, limit))
        grid, positions = [grid[cell] for cell in chosen], [positions[cell] for cell in chosen]
    cases = [
        _place(
            hidden[needle],
            haystack,
            at=at,
            case_id=i,
            needle_id=needle,
            length=length,
        )
        for i, ((needle, length, _), at) in enumerate(zip(grid, positions, strict=True))
    ]
    asked = {needle: needles[needle] for needle, _, _ in grid}
    report_leaks(
        find_leaks(asked, ProseIndex(haystack.sentences, haystack.starts)),
        [(case.needle_id, case.length - hidden[case.needle_id].size) for case in cases],
    )
    distinct = len({(case.needle_id, case.length, case.position) for case in cases})
    if 2 * distinct < len(cases):
        warnings.warn(
            f"the haystack's sentences are so long that {len(cases)} cases are {distinct} prompts: "
            "try longer `lengths`, fewer `depths` or another `haystack`",
            HeadprobeWarning,
            stacklevel=2,
        )
    return cases


def _positions(
    hidden: Sequence[HiddenNeedle], haystack: _Haystack, grid: Sequence[tuple[int, int, float]]
) -> list[int]:
    """Choose the needle's position in the haystack for every (needle, length, depth) of a grid."""
    lengths, depths = (list(dict.fromkeys(axis)) for axis in list(zip(*grid, strict=True))[1:])
    # Needles of one size stand at the same positions.
    by_size = {
        size: haystack.needle_positions({n: max(0, n - size) for n in lengths}, depths)
        for size in {needle.size for needle in hidden}
    }
    return [by_size[hidden[needle].size][length, depth] for needle, length, depth in grid]


def _place(
    needle: HiddenNeedle,
    haystack: _Haystack,
    *,
    at: int,
    case_id: int,
    needle_id: int,
    length: int,
) -> Case:
    capacity = length - needle.size
    if capacity < 0:
        raise UsageError(
            f"too short for needle {needle_id} and its question; expected at least {needle.size}",
            option="lengths",
            value=length,
        )
    haystack.reach(capacity)
    return surround(
        needle,
        haystack.tokens[:at],
        haystack.tokens[at:capacity],
        case_id=case_id,
        needle_id=needle_id,
    )


def surround(
    needle: HiddenNeedle,
    before: Sequence[int],
    after: Sequence[int],
    *,
    case_id: int,
    needle_id: int,
) -> Case:
    """Build the case of a needle with these tokens of prose before and after it."""
    prose = len(before) + len(after)
    position, length = len(needle.head) + len(before), needle.size + prose
    tail = length - len(needle.tail)
    return Case(
        case_id=case_id,
        needle_id=needle_id,
        length=length,
        depth=100 * len(before) / prose if prose else 0.0,
        position=position,
        input_ids=(*needle.head, *before, *needle.tokens, *after, *needle.tail),
        span_start=position + needle.span_start,
        span_end=position + needle.span_end,
        answer=needle.answer,
        wrong_answer=needle.wrong_answer,
        answer_ids=tuple(needle.answer_ids),
        kind=needle.kind,
        question=QuestionSpan(
            start=tail + needle.question.start,
            end=tail + needle.question.end,
            blank_ids=needle.question.blank_ids,
        ),
    )

"""Let a model answer several cases at once, whose prompts are the tails of one path.

The tails are run together, each with drafts of its answer. As far as the model agrees with a draft,
the draft is the greedy answer, and its attention rows equal the rows of decoding token by token.
What is left is decoded for all cases together, a forward pass a step, with new drafts each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from headprobe.attention.branches import PATH, Branches
from headprobe.attention.prefix_cache import PrefixCache
from headprobe.prompts.case import Case
from headprobe.runs.drafts import drafts
from headprobe.runs.passes import Passes, Piece
from headprobe.runs.reading_setup import ReadingSetup
from headprobe.runs.score_accumulator import ScoreAccumulator, View
from headprobe.runs.shared_prefixes import cuts_of, question_of, watches_question
from headprobe.runs.utility import CaseUtility
from headprobe.scores.utility import WINDOW

# A forward pass costs its launch on a GPU, and its tokens on a CPU.
_MOST_DRAFTS, _MOST_DRAFTS_ON_CPU = 3, 1


@dataclass(eq=False, kw_only=True)
class Answer:
    """The state of a case's answer, of which the tokens ``generated`` are known.

    Of its text the first ``read`` tokens are in the KV cache of the sequence ``sequence`` of the
    batch, seen from ``branch``; ``unread`` follow. ``similar`` is the answer of a similar model.
    ``utility`` gathers the utility of the prompt's entries, if wanted.
    """

    case: Case
    accumulator: ScoreAccumulator
    read: int
    sequence: int = 0
    similar: Sequence[int] = ()
    branch: int = PATH
    unread: Sequence[int] = ()
    utility: CaseUtility | None = None
    generated: list[int] = field(default_factory=list)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Step:
    """The pieces of one answer in a step.

    ``asked`` are the pieces of a watched question, the empty question first; ``windows`` end in
    the newest queries before a cut; ``base`` are the unread tokens, and each of ``drafts`` would
    follow them.
    """

    answer: Answer
    asked: Sequence[Piece]
    windows: Sequence[Piece]
    base: Piece
    drafts: Sequence[Piece]

    @property
    def pieces(self) -> list[Piece]:
        """All pieces, in an order in which they can be run."""
        return [*self.asked, *self.windows, self.base, *self.drafts]


class Decoder:
    """Answers cases on the KV cache of their path.

    Args:
        setup: the model, the task of the cases, and how the model answers.
        cache: a KV cache that holds the path; extended in place.
        branches: the layout of each sequence of the cache; ``None`` for a model that takes one
            text at a time.
    """

    def __init__(
        self, setup: ReadingSetup, cache: PrefixCache, branches: Sequence[Branches] | None
    ) -> None:
        self._setup = setup
        self._passes = Passes(setup, cache, branches)
        self._branches = branches
        self._probe = setup.task.probe
        self._is_greedy = setup.decode == "greedy"
        self._asks = watches_question(setup.task)
        self._most_drafts = self._count_drafts()

    def answer(self, answers: Sequence[Answer]) -> None:
        """Complete the answers and their accumulators."""
        left = answers
        while left:
            steps = [self._prepare(answer) for answer in left]
            self._passes.run([piece for step in steps for piece in step.pieces])
            left = [step.answer for step in steps if self._goes_on(step)]

    def _count_drafts(self) -> int:
        """Return the most drafts that are verified at a time."""
        if self._branches is None:
            # A text that cannot be cropped to any length is decoded without drafts.
            return 0 if self._setup.has_recurrent_state else 1
        is_cpu = self._setup.loaded.device.type == "cpu"
        return _MOST_DRAFTS_ON_CPU if is_cpu else _MOST_DRAFTS

    def _prepare(self, answer: Answer) -> _Step:
        """Make the pieces of an answer's next step."""
        case, most = answer.case, self._probe.max_new_tokens(answer.case)
        asked: list[Piece] = []
        windows: list[Piece] = []
        if not answer.generated:
            start = answer.branch, answer.read
            answer.unread = case.input_ids[answer.read :]
            asked = self._ask(answer) if self._asks else []
            if answer.utility is not None:
                answer.branch, answer.read = start
                windows = self._look_back(answer, answer.utility)
        rows = 1 if most else case.length - self._probe.first_query(case)
        base = self._piece(answer, answer.branch, answer.read, answer.unread, rows)
        base.may_end = bool(answer.generated)
        if self._is_greedy:
            left = most - len(answer.generated) - 1
            drafted = drafts(case, answer.generated, most=left, similar=answer.similar)
            drafted = drafted[: self._most_drafts]
        else:
            drafted = [list(case.answer_ids[: most - 1])[: len(case.answer_ids) - 1]]
        return _Step(
            answer=answer,
            asked=asked,
            windows=windows,
            base=base,
            drafts=[
                self._piece(answer, base.branch, base.end, draft, len(draft)) for draft in drafted
            ],
        )

    def _ask(self, answer: Answer) -> list[Piece]:
        """Make the pieces of a prompt up to its question's end; the rest stays unread.

        The question is run once replaced by "N/A" and once as it is, after the same context.
        """
        case, question = answer.case, question_of(answer.case)
        before = case.input_ids[answer.read : question.start]
        context, start, pieces = answer.branch, answer.read, list[Piece]()
        if before and not self._setup.reads_whole:
            context = self._leave(answer, context, start)
            pieces.append(Piece(tokens=before, branch=context, start=start))
            start, before = question.start, ()
        for asked in (question.blank_ids, case.input_ids[question.start : question.end]):
            branch = self._leave(answer, context, start)
            view = View(case=case, watched="question", branch=branch, rows=len(asked))
            pieces.append(Piece(tokens=[*before, *asked], branch=branch, start=start, view=view))
        answer.branch, answer.read = branch, question.end
        answer.unread = case.input_ids[question.end :]
        return pieces

    def _look_back(self, answer: Answer, utility: CaseUtility) -> list[Piece]:
        """Make the pieces of a prompt up to its last token, which stays unread.

        Each ends in the newest queries before a cut.
        """
        case, pieces = answer.case, list[Piece]()
        end, unknown = cuts_of(case)
        for stop in (unknown, end - 1):
            branch = self._leave(answer, answer.branch, answer.read)
            rows = min(WINDOW, stop - answer.read)
            view = View(
                case=case,
                watched="window",
                branch=branch,
                rows=rows,
                utility=utility,
                position=stop - rows,
            )
            tokens = case.input_ids[answer.read : stop]
            pieces.append(
                Piece(
                    tokens=tokens,
                    sequence=answer.sequence,
                    branch=branch,
                    start=answer.read,
                    view=view,
                )
            )
            answer.branch, answer.read = branch, stop
        answer.unread = case.input_ids[answer.read :]
        return pieces

    def _piece(
        self, answer: Answer, parent: int, start: int, tokens: Sequence[int], rows: int
    ) -> Piece:
        branch = self._leave(answer, parent, start)
        view = View(
            case=answer.case,
            watched="answer",
            branch=branch,
            rows=rows,
            utility=answer.utility,
            position=start + len(tokens) - rows,
        )
        return Piece(
            tokens=tokens,
            sequence=answer.sequence,
            branch=branch,
            start=start,
            view=view,
            chooses=self._is_greedy and self._probe.max_new_tokens(answer.case) > 0,
        )

    def _leave(self, answer: Answer, branch: int, start: int) -> int:
        """Return a new branch that leaves another one at a position."""
        return (
            PATH if self._branches is None else self._branches[answer.sequence].add(branch, start)
        )

    def _goes_on(self, step: _Step) -> bool:
        """Take a step's results into its answer; tell whether the answer goes on."""
        answer, base = step.answer, step.base
        most = self._probe.max_new_tokens(answer.case)
        for piece, weight in zip(step.asked[-2:], (-1.0, 1.0), strict=False):
            self._add(answer, piece, piece.tokens[piece.watched.start :], weight)
        if not most:
            self._add(answer, base, base.tokens[base.watched.start :])
            return False
        if self._is_greedy:
            verified = [(self._verify(answer, base, draft), draft) for draft in step.drafts]
            verified.append((self._verify(answer, base, None), base))
            chosen, best = max(verified, key=lambda pair: len(pair[0]))
        else:
            best, chosen = step.drafts[0], list(answer.case.answer_ids[:most])
        self._add(answer, base, chosen[:1])
        self._add(answer, best, chosen[1:])
        answer.generated += chosen
        answer.read, answer.unread = base.end + len(chosen) - 1, chosen[-1:]
        answer.branch = best.branch if len(chosen) > 1 else base.branch
        rules = self._setup.rules
        return self._is_greedy and not rules.is_complete(answer.generated, max_new_tokens=most)

    def _verify(self, answer: Answer, base: Piece, draft: Piece | None) -> list[int]:
        """Return the greedy tokens: a draft as far as the model chose it, and its next choice."""
        drafted, chosen = ([], []) if draft is None else (draft.tokens, draft.chosen)
        agreed: list[int] = []
        for token, guess in zip([*base.chosen, *chosen], [*drafted, None], strict=True):
            agreed.append(token)
            if token != guess or self._setup.rules.is_end([*answer.generated, *agreed]):
                break
        return agreed

    def _add(
        self, answer: Answer, piece: Piece, tokens: Sequence[int], weight: float = 1.0
    ) -> None:
        """Score a piece's first watched rows, which chose or read some tokens."""
        if piece.view and tokens:
            answer.accumulator.add(piece.view, self._tensor(tokens), weight=weight)

    def _tensor(self, tokens: Sequence[int]) -> Int[Tensor, " token"]:
        return torch.tensor(tokens, device=self._setup.loaded.device)

"""Let a model answer several cases at once, whose prompts are the tails of one path.

The tails are run together, each with drafts of its answer. As far as the model agrees with a draft,
the draft is the greedy answer, and its attention rows equal the rows of decoding token by token.
What is left is decoded for all cases together, a forward pass a step, with new drafts each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor

from headprobe.attention.branches import PATH, Branches
from headprobe.prompts.case import Case
from headprobe.runs.drafts import drafts
from headprobe.runs.passes import Passes, Piece
from headprobe.runs.score_accumulator import ScoreAccumulator, View
from headprobe.runs.shared_prefixes import question_of
from headprobe.runs.stops import Stops
from headprobe.tasks import Probe

Decode = Literal["greedy", "forced"]


@dataclass(eq=False, kw_only=True)
class Answer:
    """The state of a case's answer, of which the tokens ``generated`` are known.

    Of its text the first ``read`` tokens are in the KV cache, seen from ``branch``; ``unread``
    follow.
    """

    case: Case
    accumulator: ScoreAccumulator
    read: int
    branch: int = PATH
    unread: Sequence[int] = ()
    generated: list[int] = field(default_factory=list)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Step:
    """The pieces of one answer in a step.

    ``asked`` are the pieces of a watched question, the empty question first; ``base`` are the
    unread tokens, and each of ``drafts`` would follow them.
    """

    answer: Answer
    asked: Sequence[Piece]
    base: Piece
    drafts: Sequence[Piece]

    @property
    def pieces(self) -> list[Piece]:
        """All pieces, in an order in which they can be run."""
        return [*self.asked, self.base, *self.drafts]


class Decoder:
    """Answers cases on the KV cache of their path.

    Args:
        passes: runs the tokens.
        branches: the layout of the KV cache; ``None`` for a model that takes one text at a time.
        probe: the kind of the cases.
        decode: ``greedy`` for the model's own answers, ``forced`` for the expected ones.
        stops: tells where an answer ends.
        most_drafts: the most drafts that are verified at a time.
        asks: whether a measure watches the question.
        whole: whether a prompt can only be run from its start in one forward pass.
    """

    def __init__(
        self,
        passes: Passes,
        branches: Branches | None,
        probe: Probe,
        *,
        decode: Decode,
        stops: Stops,
        most_drafts: int,
        asks: bool,
        whole: bool = False,
    ) -> None:
        self._passes = passes
        self._branches = branches
        self._probe = probe
        self._decode = decode
        self._stops = stops
        self._most_drafts = most_drafts
        self._asks = asks
        self._whole = whole

    def answer(self, answers: Sequence[Answer]) -> None:
        """Complete the answers and their accumulators."""
        left = answers
        while left:
            steps = [self._prepare(answer) for answer in left]
            self._passes.run([piece for step in steps for piece in step.pieces])
            left = [step.answer for step in steps if self._goes_on(step)]

    def _prepare(self, answer: Answer) -> _Step:
        """Make the pieces of an answer's next step."""
        case, most = answer.case, self._probe.max_new_tokens(answer.case)
        asked: list[Piece] = []
        if not answer.generated:
            answer.unread = case.input_ids[answer.read :]
            asked = self._ask(answer) if self._asks else []
        rows = 1 if most else case.length - self._probe.first_query(case)
        base = self._piece(answer, answer.branch, answer.read, answer.unread, rows)
        base.may_end = bool(answer.generated)
        if self._decode == "forced":
            drafted = [list(case.answer_ids[: most - 1])[: len(case.answer_ids) - 1]]
        else:
            drafted = drafts(case, answer.generated, most=most - len(answer.generated) - 1)
            drafted = drafted[: self._most_drafts]
        return _Step(
            answer=answer,
            asked=asked,
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
        if before and not self._whole:
            context = self._leave(context, start)
            pieces.append(Piece(tokens=before, branch=context, start=start))
            start, before = question.start, ()
        for asked in (question.blank_ids, case.input_ids[question.start : question.end]):
            branch = self._leave(context, start)
            view = View(case=case, watched="question", branch=branch, rows=len(asked))
            pieces.append(Piece(tokens=[*before, *asked], branch=branch, start=start, view=view))
        answer.branch, answer.read = branch, question.end
        answer.unread = case.input_ids[question.end :]
        return pieces

    def _piece(
        self, answer: Answer, parent: int, start: int, tokens: Sequence[int], rows: int
    ) -> Piece:
        branch = self._leave(parent, start)
        view = View(case=answer.case, watched="answer", branch=branch, rows=rows)
        chooses = self._decode == "greedy" and self._probe.max_new_tokens(answer.case) > 0
        return Piece(tokens=tokens, branch=branch, start=start, view=view, chooses=chooses)

    def _leave(self, branch: int, start: int) -> int:
        """Return a new branch that leaves another one at a position."""
        return PATH if self._branches is None else self._branches.add(branch, start)

    def _goes_on(self, step: _Step) -> bool:
        """Take a step's results into its answer; tell whether the answer goes on."""
        answer, base = step.answer, step.base
        most = self._probe.max_new_tokens(answer.case)
        for piece, weight in zip(step.asked[-2:], (-1.0, 1.0), strict=False):
            self._add(answer, piece, piece.tokens[piece.watched.start :], weight)
        if not most:
            self._add(answer, base, base.tokens[base.watched.start :])
            return False
        if self._decode == "forced":
            best, chosen = step.drafts[0], list(answer.case.answer_ids[:most])
        else:
            verified = [(self._verify(answer, base, draft), draft) for draft in step.drafts]
            verified.append((self._verify(answer, base, None), base))
            chosen, best = max(verified, key=lambda pair: len(pair[0]))
        self._add(answer, base, chosen[:1])
        self._add(answer, best, chosen[1:])
        answer.generated += chosen
        answer.read, answer.unread = base.end + len(chosen) - 1, chosen[-1:]
        answer.branch = best.branch if len(chosen) > 1 else base.branch
        return not (
            self._decode == "forced"
            or len(answer.generated) == most
            or self._stops.end(answer.generated)
        )

    def _verify(self, answer: Answer, base: Piece, draft: Piece | None) -> list[int]:
        """Return the greedy tokens: a draft as far as the model chose it, and its next choice."""
        drafted, chosen = ([], []) if draft is None else (draft.tokens, draft.chosen)
        agreed: list[int] = []
        for token, guess in zip([*base.chosen, *chosen], [*drafted, None], strict=True):
            agreed.append(token)
            if token != guess or self._stops.end([*answer.generated, *agreed]):
                break
        return agreed

    def _add(
        self, answer: Answer, piece: Piece, tokens: Sequence[int], weight: float = 1.0
    ) -> None:
        """Score a piece's first watched rows, which chose or read some tokens."""
        if piece.view and tokens:
            answer.accumulator.add(piece.view, self._tensor(tokens), weight=weight)

    def _tensor(self, tokens: Sequence[int]) -> Int[Tensor, " token"]:
        return torch.tensor(tokens, device=self._passes.device)

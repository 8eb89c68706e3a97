"""Answers under budgets: a prompt is read once, its cache cut to every budget, then answered.

What is cut to the different budgets is answered, greedily, as the sequences of one batch
(``HeadBudgetCache.fork``), and beside it by the uncut cache. Both settings come from one reading:
the cache is forked behind the context, where the fork reads the question by itself, and behind the
question.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headprobe.attention.prefix_cache import runs_in_pieces
from headprobe.compression import HeadBudgetCache, Target
from headprobe.errors import HeadprobeError, out_of_memory
from headprobe.evaluation.methods import Contender, Moment, everything
from headprobe.evaluation.outcomes import FULL, KNOWN, SETTINGS, UNSEEN, Evaluation, Trial, grade
from headprobe.evaluation.questions import Question
from headprobe.models.loading import LoadedModel
from headprobe.runs.case_runner import Stops
from headprobe.tasks.grading import ACCEPTED

CHUNK = 2048


@dataclass(frozen=True, eq=False, kw_only=True)
class Answers:
    """To one question in one setting, of the full cache first, then of each contender.

    ``shares`` are the parts of the cache that were kept, 0 to 1.
    """

    shares: Float[np.ndarray, " contender"]
    responses: Sequence[str]


def evaluate(
    loaded: LoadedModel,
    questions: Sequence[Question],
    contenders: Sequence[Contender],
    *,
    settings: Collection[str] = tuple(SETTINGS),
    chunk: int = CHUNK,
) -> Evaluation:
    """Every question answered under every contender's budget, and with the full cache.

    Arguments and errors are those of ``answer``.
    """
    answered = [*answer(loaded, questions, contenders, settings=settings, chunk=chunk)]
    return graded(questions, contenders, answered)


def answer(
    loaded: LoadedModel,
    questions: Iterable[Question],
    contenders: Sequence[Contender],
    *,
    settings: Collection[str] = tuple(SETTINGS),
    chunk: int = CHUNK,
) -> Iterator[dict[str, Answers]]:
    """The answers to one question after the other, by setting.

    Args:
        loaded: the model.
        questions: what is asked; each is read once, whatever the number of contenders.
        contenders: how the cache is cut; all with one granularity.
        settings: of ``SETTINGS``, when it is cut.
        chunk: tokens a forward pass reads.

    Raises:
        HeadprobeError: the model's cache cannot be cut, a budget is for another model, or a prompt
            does not fit into the device's memory.
    """
    if loaded.layers_without_attention and not runs_in_pieces(loaded.model):
        raise HeadprobeError(
            f"cannot evaluate {loaded.layout.id}: it reads a text in pieces otherwise than whole"
        )
    reader = _Reader(loaded, contenders, settings=settings, chunk=chunk)
    for question in questions:
        try:
            yield reader.answer(question)
        except torch.OutOfMemoryError as error:
            tokens = len(question.context_ids) + len(question.question_ids)
            hint = "fewer --budget, shorter prompts"
            raise out_of_memory(error, tokens=tokens, hint=hint) from error


def graded(
    questions: Sequence[Question],
    contenders: Sequence[Contender],
    answered: Sequence[Mapping[str, Answers]],
) -> Evaluation:
    """The answers to questions, one after the other, with their grades.

    Raises:
        ValueError: there is none.
    """
    if not answered:
        raise ValueError("expected an answered question, got none")
    names = [(FULL, "100%", False)]
    names += [(one.strategy, one.budget, one.is_baseline) for one in contenders]
    return Evaluation(
        questions=tuple(question.question_id for question in questions),
        groups=tuple(question.group for question in questions),
        trials=tuple(
            _trial(setting, *name, questions, [answers[setting] for answers in answered], row)
            for setting in SETTINGS
            if setting in answered[0]
            for row, name in enumerate(names)
        ),
    )


def _trial(
    setting: str,
    strategy: str,
    budget: str,
    is_baseline: bool,
    questions: Sequence[Question],
    answers: Sequence[Answers],
    row: int,
) -> Trial:
    responses = tuple(one.responses[row] for one in answers)
    graded = [_grade(said, asked) for said, asked in zip(responses, questions, strict=True)]
    return Trial(
        setting=setting,
        strategy=strategy,
        budget=budget,
        is_baseline=is_baseline,
        shares=np.array([one.shares[row] for one in answers]),
        responses=responses,
        grades={name: np.array([grades[name] for grades in graded]) for name in graded[0]},
    )


def _grade(response: str, question: Question) -> dict[str, float]:
    graded = grade(response, question.answers)
    if question.accepted is not None:
        graded[ACCEPTED] = 100.0 * question.accepted(response)
    return graded


class _Reader:
    """Reads prompts and answers them."""

    def __init__(
        self,
        loaded: LoadedModel,
        contenders: Sequence[Contender],
        *,
        settings: Collection[str],
        chunk: int,
    ) -> None:
        self._loaded = loaded
        self._contenders = contenders
        self._settings = settings
        self._chunk = chunk
        self._stops = Stops(loaded)

    @torch.inference_mode()
    def answer(self, question: Question) -> dict[str, Answers]:
        """The answers in every setting."""
        window = max((one.window for one in self._contenders), default=0)
        uncut = everything(self._loaded.layout, window=window)
        cache = HeadBudgetCache(self._loaded.model, uncut)
        cut = {}
        with cache:
            self._read(cache, self._tensor(question.context_ids))
        if UNSEEN in self._settings and self._contenders:
            cut[UNSEEN] = self._answer_cut(cache, question)
        with cache:
            first = self._read(cache, self._tensor(question.question_ids))
        if KNOWN in self._settings and self._contenders:
            cut[KNOWN] = self._answer_cut(cache, question, first)
        with cache:
            full = self._go_on(cache, first, question.most_steps)
        none = Answers(shares=np.array([]), responses=[])
        return {
            setting: Answers(
                shares=np.array([1.0, *cut.get(setting, none).shares]),
                responses=[*map(self._text, full), *cut.get(setting, none).responses],
            )
            for setting in self._settings
        }

    def _answer_cut(
        self,
        cache: HeadBudgetCache,
        question: Question,
        first: Int[Tensor, 1] | None = None,
    ) -> Answers:
        """The contenders' answers, the cache cut now.

        ``first`` are the tokens that answers begin with, where the question is read already; else
        it is read behind the cut.
        """
        count, tokens = len(self._contenders), len(question.context_ids)
        if first is not None:
            tokens += len(question.question_ids)
        moment = Moment(tokens=tokens, question_id=question.draw_id, room=cache.room)
        fork = cache.fork(
            [Target(budgets=one.at(moment), floor=one.floor) for one in self._contenders]
        )
        kept = fork.entries.sum(axis=(0, 2))
        full = moment.room.sum() * fork.entries.shape[2]
        with fork:
            if first is None:
                first = self._read(fork, self._tensor(question.question_ids).expand(count, -1))
            written = self._go_on(fork, first.expand(count), question.most_steps)
        return Answers(shares=kept / full, responses=[self._text(ids) for ids in written])

    def _tensor(self, ids: Sequence[int]) -> Int[Tensor, "1 token"]:
        return torch.tensor([ids], device=self._loaded.device)

    def _read(
        self, cache: HeadBudgetCache, ids: Int[Tensor, "sequence token"]
    ) -> Int[Tensor, " sequence"]:
        """Run new tokens; returns what each sequence would go on with."""
        for piece in torch.split(ids, self._chunk, dim=1):
            output = self._loaded.model(
                piece, past_key_values=cache, use_cache=True, logits_to_keep=1
            )
        chosen: Tensor = output.logits[:, -1].argmax(dim=-1)
        return chosen

    def _go_on(
        self, cache: HeadBudgetCache, first: Int[Tensor, " sequence"], most_steps: int
    ) -> list[list[int]]:
        """The greedy answers that begin with some tokens, the stop token included."""
        answers = [[token] for token in first.tolist()]
        running = list(range(len(answers)))
        while True:
            going = [n for n in running if self._goes_on(answers[n], most_steps)]
            if not going:
                return answers
            # To lay the cache out anew costs about a step.
            if 2 * len(going) <= len(running):
                kept = [row for row, n in enumerate(running) if n in going]
                cache.reorder_cache(torch.tensor(kept, device=first.device))  # type: ignore[arg-type]
                running = going
            newest = torch.tensor([[answers[n][-1]] for n in running], device=first.device)
            for n, token in zip(running, self._read(cache, newest).tolist(), strict=True):
                if n in going:
                    answers[n].append(token)

    def _goes_on(self, answer: list[int], most_steps: int) -> bool:
        return len(answer) < most_steps and answer[-1] not in self._stops

    def _text(self, ids: list[int]) -> str:
        return str(self._loaded.tokenizer.decode(ids, skip_special_tokens=True)).strip()

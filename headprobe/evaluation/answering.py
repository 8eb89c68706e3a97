"""Answers under budgets: a prompt is read once, its cache cut to every budget, then answered.

Both settings come from one reading: the cache is forked after the context, where the fork reads the
question by itself, and after the question (``HeadBudgetCache.fork``). What was cut to the different
budgets, in either setting, and the full cache beside it are answered, greedily, as the sequences of
one batch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headprobe.attention.finite import NotFinite, not_finite, require_finite_logits
from headprobe.attention.prefix_cache import runs_in_pieces
from headprobe.compression import GreedyDecoder, HeadBudgetCache, Target
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
        except NotFinite:
            prompt = [*question.context_ids, *question.question_ids]
            raise not_finite(loaded, prompt) from None


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
        context, asked = map(self._tensor, (question.context_ids, question.question_ids))
        with cache:
            self._read(cache, context)
        forks, shares = [], {}
        if UNSEEN in self._settings and self._contenders:
            moment = self._moment(cache, question)
            fork = cache.fork(self._targets(moment))
            shares[UNSEEN] = _shares(fork, moment)
            with fork:
                forks.append((fork, self._read(fork, asked.expand(len(self._contenders), -1))))
        with cache:
            first = self._read(cache, asked)
        moment = self._moment(cache, question)
        targets = self._targets(moment) if KNOWN in self._settings else []
        granularity = targets[0].budgets.granularity if targets else uncut.granularity
        full = Target(budgets=everything(self._loaded.layout, granularity=granularity))
        fork = cache.fork([full, *targets], keep=False)
        shares[KNOWN] = _shares(fork, moment)[1:]
        forks.insert(0, (fork, first.expand(1 + len(targets))))
        own, *others = self._write(forks, question.most_steps)
        said = {KNOWN: others[: len(targets)], UNSEEN: others[len(targets) :]}
        return {
            setting: Answers(
                shares=np.array([1.0, *shares.get(setting, ())]),
                responses=[own, *said[setting]],
            )
            for setting in self._settings
        }

    def _moment(self, cache: HeadBudgetCache, question: Question) -> Moment:
        """Now, the cache being cut."""
        return Moment(tokens=cache.get_seq_length(), question_id=question.draw_id, room=cache.room)

    def _targets(self, moment: Moment) -> list[Target]:
        return [Target(budgets=one.at(moment), floor=one.floor) for one in self._contenders]

    def _write(
        self, forks: Sequence[tuple[HeadBudgetCache, Int[Tensor, " _sequence"]]], most_steps: int
    ) -> list[str]:
        """The greedy answers of cut caches, whose sequences begin with some tokens.

        They are written as one batch where the caches can be joined.
        """
        (cache, first), *others = forks
        if others and cache.can_join:
            [(other, then)] = others
            forks = [(cache.join(other), torch.cat([first, then]))]
        written = []
        for cache, first in forks:
            with cache:
                decoder = GreedyDecoder(self._loaded.model, cache, max_new_tokens=most_steps)
                written += self._go_on(decoder, first, most_steps)
        return [self._text(ids) for ids in written]

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
        require_finite_logits(output.logits)
        chosen: Tensor = output.logits[:, -1].argmax(dim=-1)
        return chosen

    def _go_on(
        self, decoder: GreedyDecoder, first: Int[Tensor, " sequence"], most_steps: int
    ) -> list[list[int]]:
        """The greedy answers that begin with some tokens, the stop token included."""
        newest = first
        answers: list[list[int]] = [[] for _ in newest]
        running = list(range(len(answers)))
        going = set(running)
        while True:
            # The one wait for the device in a step.
            for n, token in zip(running, newest.tolist(), strict=True):
                if n in going:
                    answers[n].append(token)
            going = {n for n in going if self._goes_on(answers[n], most_steps)}
            if not going:
                return answers
            # To lay the cache out anew costs about a step.
            if 2 * len(going) <= len(running):
                kept = [row for row, n in enumerate(running) if n in going]
                rows = torch.tensor(kept, device=newest.device)
                decoder.take(rows)
                running, newest = [running[row] for row in kept], newest[rows]
            newest = decoder.step(newest)

    def _goes_on(self, answer: list[int], most_steps: int) -> bool:
        return len(answer) < most_steps and not self._stops.end(answer)

    def _text(self, ids: list[int]) -> str:
        return str(self._loaded.tokenizer.decode(ids, skip_special_tokens=True)).strip()


def _shares(fork: HeadBudgetCache, moment: Moment) -> Float[np.ndarray, " sequence"]:
    """The fraction of the full cache that each sequence keeps, 0 to 1."""
    shares: Float[np.ndarray, " sequence"] = fork.entries.sum(axis=(0, 2)) / (
        moment.room.sum() * fork.entries.shape[2]
    )
    return shares

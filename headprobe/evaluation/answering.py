"""Answers under budgets: a prompt is read once, its cache compressed to each, then answered.

Both settings come from one reading: the cache is forked after the context, where the fork reads the
question by itself, and after the question (``HeadBudgetCache.fork``). What was compressed to the
different budgets, in either setting, and the full cache beside it are answered, greedily, as the
sequences of one batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from headprobe.attention.finite import NotFinite, not_finite
from headprobe.attention.prefix_cache import reads_whole
from headprobe.compression import GreedyDecoder, HeadBudgetCache, Target
from headprobe.compression.reconstruction import repetitions
from headprobe.errors import HeadprobeError, out_of_memory
from headprobe.evaluation.methods import CutPoint, Method, everything
from headprobe.evaluation.questions import Question
from headprobe.evaluation.results import FULL, Evaluation, MethodAnswers, grade
from headprobe.evaluation.settings import QUERY_AGNOSTIC, QUERY_AWARE, SETTINGS
from headprobe.models.loading import LoadedModel
from headprobe.models.logits import last_position
from headprobe.runs.greedy import GreedyRules, Stops

PREFILL_CHUNK = 2048


@dataclass(frozen=True, eq=False, kw_only=True)
class Answers:
    """The answers to one question in one setting: of the full cache first, then of each method.

    ``fractions`` are the fractions of the cache that were kept, 0 to 1.
    """

    fractions: Float[np.ndarray, " method"]
    responses: Sequence[str]


def evaluate(
    loaded: LoadedModel,
    questions: Sequence[Question],
    methods: Sequence[Method],
    *,
    settings: Collection[str] = tuple(SETTINGS),
    prefill_chunk: int = PREFILL_CHUNK,
) -> Evaluation:
    """Answer every question under every method's budget, and with the full cache.

    Arguments and errors are the same as in ``answer``.
    """
    answered = [*answer(loaded, questions, methods, settings=settings, prefill_chunk=prefill_chunk)]
    return graded(questions, methods, answered)


def answer(
    loaded: LoadedModel,
    questions: Iterable[Question],
    methods: Sequence[Method],
    *,
    settings: Collection[str] = tuple(SETTINGS),
    prefill_chunk: int = PREFILL_CHUNK,
) -> Iterator[dict[str, Answers]]:
    """Answer questions one after the other; yield the answers to each by setting.

    Args:
        loaded: the model.
        questions: what is asked; each is read once, whatever the number of methods, and a context
            once for the questions about it that follow one another.
        methods: how the cache is compressed; all with one granularity.
        settings: of ``SETTINGS``, when the cache is compressed.
        prefill_chunk: the number of tokens that a forward pass reads.

    Raises:
        HeadprobeError: the model's cache cannot be compressed, a budget is for another model, or a
            prompt does not fit into the device's memory.
    """
    if reads_whole(loaded.model):
        raise HeadprobeError(
            f"cannot evaluate {loaded.layout.id}: it reads a text in pieces otherwise than whole"
        )
    reader = _Reader(loaded, methods, settings=settings, prefill_chunk=prefill_chunk)
    for _, group in itertools.groupby(questions, key=attrgetter("context_ids")):
        about_it = [*group]
        for question in about_it:
            try:
                yield reader.answer(question, keep_context=question is not about_it[-1])
            except torch.OutOfMemoryError as error:
                hint = "a smaller `budget` list or shorter prompts"
                raise out_of_memory(error, tokens=len(question.input_ids), hint=hint) from error
            except NotFinite:
                raise not_finite(loaded, question.input_ids) from None


def graded(
    questions: Sequence[Question],
    methods: Sequence[Method],
    answered: Sequence[Mapping[str, Answers]],
) -> Evaluation:
    """Grade the answers to questions, given in the order of the questions.

    Raises:
        ValueError: there is no answer.
    """
    if not answered:
        raise ValueError("expected an answered question, got none")
    names: list[tuple[str, str | None, str, bool]] = [(FULL, None, "100%", False)]
    names += [(one.strategy, one.selection, one.budget, one.is_baseline) for one in methods]
    return Evaluation(
        questions=tuple(question.question_id for question in questions),
        groups=tuple(question.group for question in questions),
        methods=tuple(
            _method_answers(
                setting, *name, questions, [answers[setting] for answers in answered], row
            )
            for setting in SETTINGS
            if setting in answered[0]
            for row, name in enumerate(names)
        ),
    )


def _method_answers(
    setting: str,
    strategy: str,
    selection: str | None,
    budget: str,
    is_baseline: bool,
    questions: Sequence[Question],
    answers: Sequence[Answers],
    row: int,
) -> MethodAnswers:
    responses = tuple(one.responses[row] for one in answers)
    graded = [_grade(said, asked) for said, asked in zip(responses, questions, strict=True)]
    return MethodAnswers(
        setting=setting,
        strategy=strategy,
        selection=selection,
        budget=budget,
        is_baseline=is_baseline,
        fractions=np.array([one.fractions[row] for one in answers]),
        responses=responses,
        grades={name: np.array([grades[name] for grades in graded]) for name in graded[0]},
    )


def _grade(response: str, question: Question) -> dict[str, float]:
    own = {name: metric(response) for name, metric in question.metrics.items()}
    return own | grade(response, question.answers)


class _Reader:
    """A model that reads each prompt once and answers it under every method."""

    def __init__(
        self,
        loaded: LoadedModel,
        methods: Sequence[Method],
        *,
        settings: Collection[str],
        prefill_chunk: int,
    ) -> None:
        self._loaded = loaded
        self._methods = methods
        self._settings = settings
        self._chunk = prefill_chunk
        self._rules = {stops: GreedyRules(loaded, stops=stops) for stops in get_args(Stops)}
        self._selections = {name for one in methods for name in one.selections}
        self._uncut = everything(
            loaded.layout, window=max((one.window for one in methods), default=0)
        )
        self._cuts_contexts = QUERY_AGNOSTIC in settings and bool(methods)
        self._kept: HeadBudgetCache | None = None

    @torch.inference_mode()
    def answer(self, question: Question, *, keep_context: bool = False) -> dict[str, Answers]:
        """Answer a question in every setting, and keep its context for the next one if told to."""
        cache = self._read_context(question) if self._kept is None else self._kept
        self._kept = cache if keep_context else None
        cache = cache.branch() if keep_context else cache
        asked, rules = self._tensor(question.question_ids), self._rules[question.stops]
        forks, fractions = [], {}
        if self._cuts_contexts:
            cut_point = self._cut_point(cache, question)
            fork = cache.fork(self._targets(cut_point))
            fractions[QUERY_AGNOSTIC] = _fractions(fork, cut_point)
            with fork:
                read = self._read(fork, asked.expand(len(self._methods), -1), rules)
            forks.append((fork, read))
        with cache:
            first = self._read(cache, asked, rules)
        cut_point = self._cut_point(cache, question)
        cut = self._targets(cut_point)
        targets = cut if QUERY_AWARE in self._settings else []
        if targets:
            repeated = len(question.context_ids) if self._cuts_contexts else 0
            self._repeat(cache, question.input_ids, start=repeated)
        granularity = (cut[0].budgets if cut else self._uncut).granularity
        full = Target(budgets=everything(self._loaded.layout, granularity=granularity))
        fork = cache.fork([full, *targets], keep=False)
        fractions[QUERY_AWARE] = _fractions(fork, cut_point)[1:]
        forks.insert(0, (fork, first.expand(1 + len(targets))))
        own, *others = self._write(forks, rules, question.max_new_tokens)
        said = {QUERY_AWARE: others[: len(targets)], QUERY_AGNOSTIC: others[len(targets) :]}
        return {
            setting: Answers(
                fractions=np.array([1.0, *fractions.get(setting, ())]),
                responses=[own, *said[setting]],
            )
            for setting in self._settings
        }

    def _read_context(self, question: Question) -> HeadBudgetCache:
        """Read a question's context, and repeat it where it is compressed by repetition."""
        model = self._loaded.model
        cache = HeadBudgetCache(model, self._uncut, selections=self._selections)
        with cache:
            self._read(cache, self._tensor(question.context_ids), self._rules[question.stops])
        if self._cuts_contexts:
            self._repeat(cache, question.context_ids)
        return cache

    def _repeat(self, cache: HeadBudgetCache, ids: tuple[int, ...], *, start: int = 0) -> None:
        """Let the model repeat the tokens from ``start`` on, where a selection needs it."""
        if "reconstruction" in cache.needs:
            loaded = self._loaded
            limit = loaded.max_context
            cache.reconstruct(repetitions(ids, loaded.tokenizer, start=start, max_context=limit))

    def _cut_point(self, cache: HeadBudgetCache, question: Question) -> CutPoint:
        """Describe the present state of the cache as the point where it is compressed."""
        return CutPoint(
            tokens=cache.get_seq_length(), question_id=question.draw_id, capacity=cache.capacity
        )

    def _targets(self, cut_point: CutPoint) -> list[Target]:
        return [
            Target(budgets=one.at(cut_point), floor=one.floor, across=one.across)
            for one in self._methods
        ]

    def _write(
        self,
        forks: Sequence[tuple[HeadBudgetCache, Int[Tensor, " _sequence"]]],
        rules: GreedyRules,
        max_new_tokens: int,
    ) -> list[str]:
        """Write the greedy answers of compressed caches, given the first token of each sequence.

        They are written as one batch where the caches can be joined.
        """
        (cache, first), *others = forks
        if others and cache.can_join:
            [(other, then)] = others
            forks = [(cache.join(other), torch.cat([first, then]))]
        is_complete = partial(rules.is_complete, max_new_tokens=max_new_tokens)
        written = []
        for cache, first in forks:
            with cache:
                decoder = GreedyDecoder(self._loaded.model, cache, max_new_tokens=max_new_tokens)
                written += decoder.answer(first, is_complete)
        return [rules.text(ids) for ids in written]

    def _tensor(self, ids: Sequence[int]) -> Int[Tensor, "1 token"]:
        return torch.tensor([ids], device=self._loaded.device)

    def _read(
        self, cache: HeadBudgetCache, ids: Int[Tensor, "sequence token"], rules: GreedyRules
    ) -> Int[Tensor, " sequence"]:
        """Run new tokens, and return the next token of each sequence."""
        for piece in torch.split(ids, self._chunk, dim=1):
            output = self._loaded.model(
                piece, past_key_values=cache, use_cache=True, logits_to_keep=last_position(piece)
            )
        return rules.choose(output.logits[:, -1], first=range(len(ids)))


def _fractions(fork: HeadBudgetCache, cut_point: CutPoint) -> Float[np.ndarray, " sequence"]:
    """Return the fraction of the full cache that each sequence keeps, 0 to 1."""
    fractions: Float[np.ndarray, " sequence"] = fork.entries.sum(axis=(0, 2)) / (
        cut_point.capacity.sum() * fork.entries.shape[2]
    )
    return fractions

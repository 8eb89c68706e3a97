"""Run the model on cases: decode greedy answers, and observe every head's attention meanwhile.

The paths of the prompts' tree are read one after the other with one KV cache, so that a token that
prompts share is run once. After each path its tails are run in a few forward passes, all together
where the model takes that.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from headprobe.attention.branches import PATH, Branches
from headprobe.attention.finite import NotFinite, not_finite, require_finite_scores
from headprobe.attention.logit_attribution import LogitAttribution
from headprobe.attention.packing import why_one_by_one
from headprobe.attention.prefix_cache import PrefixCache, reads_whole
from headprobe.errors import HeadprobeError, HeadprobeWarning, out_of_memory
from headprobe.prompts.case import Case
from headprobe.runs.decoding import Answer, Decoder
from headprobe.runs.greedy import GreedyRules
from headprobe.runs.memory import LEAST_CHUNK, ChunkSizes
from headprobe.runs.observation import Observation
from headprobe.runs.passes import Passes, Piece
from headprobe.runs.prefix_tree import Path, PrefixTree, Tail
from headprobe.runs.reading_setup import Decode, ReadingSetup
from headprobe.runs.score_accumulator import ScoreAccumulator
from headprobe.runs.shared_prefixes import shared_prefixes
from headprobe.runs.utility import CaseUtility
from headprobe.tasks import Task
from headprobe.tasks.grading import answer_steps

if TYPE_CHECKING:
    from headprobe.models.loading import LoadedModel


def observe_cases(
    loaded: LoadedModel,
    cases: Sequence[Case],
    task: Task,
    *,
    wanted: Iterable[int] | None = None,
    tree: PrefixTree | None = None,
    decode: Decode = "greedy",
    chunk_sizes: ChunkSizes | None = None,
    packed: bool | None = None,
) -> Iterator[Observation]:
    """Observe cases one by one, in the order in which their prompts share the longest prefixes.

    An observation does not depend on the other cases that are wanted.

    Args:
        loaded: the model.
        cases: all cases of a run; their ``case_id`` is their index.
        task: its probe grades the answers, its measures are computed; without measures the heads
            are not observed.
        wanted: the cases to observe, all of them by default.
        tree: the tree over all the cases' ``shared_prefixes``; built if left out.
        decode: ``greedy`` observes the model's own answers; ``forced`` observes the expected ones,
            whatever the model would say.
        chunk_sizes: the tokens and the attention rows that are computed at a time.
        packed: run the tails of a path together; left out, if the model can (``why_not_packed``).

    Raises:
        HeadprobeError: the model's attention cannot be observed, a measure needs weights that
            cannot be read, a token has no embedding, or the device's memory is too small for the
            longest prompt.
    """
    observed = observe_in_batch(
        loaded,
        cases,
        task,
        wanted=wanted,
        tree=tree,
        decode=decode,
        chunk_sizes=chunk_sizes,
        packed=packed,
    )
    for _, seen in observed:
        yield seen


def observe_in_batch(
    loaded: LoadedModel,
    cases: Sequence[Case],
    task: Task,
    *,
    wanted: Iterable[int] | None = None,
    tree: PrefixTree | None = None,
    decode: Decode = "greedy",
    chunk_sizes: ChunkSizes | None = None,
    packed: bool | None = None,
    sequences: int = 1,
    similar: Mapping[int, Sequence[int]] | None = None,
) -> Iterator[tuple[int, Observation]]:
    """Observe cases in every sequence of a batch; yield the sequence's number and what was seen.

    The sequences hold the same prompts, for a model that is patched to tell them apart. Other
    arguments, and errors, are those of ``observe_cases``.

    Args:
        loaded: the model.
        cases: all cases of a run.
        task: without measures if there are several sequences.
        wanted: the cases to observe.
        tree: the tree over all the cases' ``shared_prefixes``.
        decode: ``greedy`` or ``forced``.
        chunk_sizes: the tokens that are computed at a time, of all sequences together.
        packed: run the tails of a path together; if not, there is one sequence.
        sequences: the number of sequences.
        similar: by ``case_id`` the answer of a similar model, to be tried as a draft.
    """
    _check_tokens(loaded, cases)
    if packed is None:
        packed = why_not_packed(loaded, cases, task) is None
    runner = CaseRunner(
        loaded,
        task,
        decode=decode,
        chunk_sizes=chunk_sizes or ChunkSizes(),
        capacity=_capacity(cases, task),
        packed=packed,
        sequences=sequences,
        similar=similar or {},
    )
    tree = tree or PrefixTree.of(shared_prefixes(cases, task))
    chosen = set(range(len(cases)) if wanted is None else wanted)
    for path in tree.paths(chosen, packed=packed):
        for sequence, seen in runner.observe(cases, path, chosen):
            if seen.case_id in chosen:
                yield sequence, seen


def why_not_packed(loaded: LoadedModel, cases: Sequence[Case], task: Task) -> str | None:
    """Tell why the tails of a path must be run one by one; ``None`` if they need not."""
    return why_one_by_one(loaded.model, device=loaded.device, longest=_capacity(cases, task))


def _check_tokens(loaded: LoadedModel, cases: Sequence[Case]) -> None:
    """Refuse prompts and answers with tokens for which the model has no embedding.

    Many tokenizers have more tokens than the embedding; this does no harm until one is used.
    """
    embedding: Any = loaded.model.get_input_embeddings()
    size = len(embedding.weight)
    for case in cases:
        blank = case.question.blank_ids if case.question else ()
        highest = max(itertools.chain(case.input_ids, case.answer_ids, blank))
        if highest >= size:
            raise HeadprobeError(
                f"the tokenizer does not fit the model {loaded.name}: it gives token {highest}, "
                f"and the embedding has {size}; put the tokenizer there that the model came with"
            )


def _capacity(cases: Sequence[Case], task: Task) -> int:
    """Return the most tokens of a prompt and its answer."""
    return max(case.length + task.probe.max_new_tokens(case) for case in cases)


class CaseRunner:
    """Runs a model on the cases of one path after another, with the KV cache of the newest path."""

    def __init__(
        self,
        loaded: LoadedModel,
        task: Task,
        *,
        decode: Decode,
        chunk_sizes: ChunkSizes,
        capacity: int,
        packed: bool,
        sequences: int,
        similar: Mapping[int, Sequence[int]],
    ) -> None:
        own = max(1, chunk_sizes.prefill_chunk // sequences)
        self._capacity = capacity + (own if packed else 0)
        self._similar = similar
        self._packed = packed
        self._cache = PrefixCache(loaded.model, self._capacity)
        self._setup = ReadingSetup(
            loaded=loaded,
            task=task,
            decode=decode,
            rules=GreedyRules(loaded),
            chunk_sizes=chunk_sizes,
            has_recurrent_state=self._cache.has_recurrent_state,
            reads_whole=reads_whole(loaded.model),
            sequences=sequences,
        )
        attributes = any(one.attributes_logits for one in self._setup.measures.values())
        self._attribution = (
            LogitAttribution(loaded.model, loaded.layout.num_heads) if attributes else None
        )

    def observe(
        self, cases: Sequence[Case], path: Path, wanted: Set[int]
    ) -> Iterator[tuple[int, Observation]]:
        """Observe the cases of a path's tails; if memory runs out, again in smaller chunks.

        Tails that are run together are skipped if none of them is ``wanted``.
        """
        left, shared = path.tails, path.shared
        while left:
            tails = self._fitting(cases, left)
            if wanted.isdisjoint(tail.prompt for tail in tails):
                left = left[len(tails) :]
                continue
            longest = max(cases[tail.prompt].length for tail in tails)
            try:
                seen = self._observe(cases, path, tails, shared)
            except torch.OutOfMemoryError as error:
                if self._setup.chunk_sizes.prefill_chunk <= LEAST_CHUNK:
                    raise out_of_memory(error, tokens=longest) from error
            except NotFinite:
                raise not_finite(self._setup.loaded, cases[tails[0].prompt].input_ids) from None
            else:
                yield from seen
                left, shared = left[len(tails) :], path.length
                continue
            self._shrink(longest)

    def _fitting(self, cases: Sequence[Case], tails: Sequence[Tail]) -> Sequence[Tail]:
        """Return the first tails that are run together: at most one chunk's tokens, or one tail."""
        sizes = (cases[tail.prompt].length - tail.start for tail in tails)
        totals = itertools.accumulate(sizes)
        most = self._setup.chunk_sizes.prefill_chunk // self._setup.sequences
        count = sum(total <= most for total in totals)
        return tails[: max(1, count)]

    def _shrink(self, longest: int) -> None:
        """Go on with smaller chunks and a new KV cache."""
        self._cache = PrefixCache(self._setup.loaded.model, self._capacity)
        torch.cuda.empty_cache()
        smaller = self._setup.chunk_sizes.halved(longest=longest)
        self._setup = replace(self._setup, chunk_sizes=smaller)
        warnings.warn(
            f"out of memory at {longest:,} tokens; "
            f"going on with `prefill_chunk={smaller.prefill_chunk}`",
            HeadprobeWarning,
            stacklevel=3,
        )

    @torch.inference_mode()
    def _observe(
        self, cases: Sequence[Case], path: Path, tails: Sequence[Tail], shared: int
    ) -> list[tuple[int, Observation]]:
        """Observe the cases of some tails together; ``shared`` tokens of the path are cached."""
        setup = self._setup
        length = 0 if setup.reads_whole else path.length
        self._read_path(cases[path.prompt], path.branch_points, shared, length)
        sequences = range(setup.sequences)
        branches = [Branches(length, setup.loaded.device) for _ in sequences]
        answers = [
            Answer(
                case=cases[tail.prompt],
                accumulator=ScoreAccumulator(setup, cases[tail.prompt], self._attribution),
                read=0 if setup.reads_whole else tail.start,
                sequence=sequence,
                similar=self._similar.get(tail.prompt, ()),
                utility=self._utility(cases[tail.prompt]),
            )
            for sequence in sequences
            for tail in tails
        ]
        Decoder(setup, self._cache, branches if self._packed else None).answer(answers)
        return [(answer.sequence, self._observation(answer)) for answer in answers]

    def _utility(self, case: Case) -> CaseUtility | None:
        if not self._setup.task.gathers_utility:
            return None
        return CaseUtility(case, self._setup.loaded.layout.num_kv_heads)

    def _read_path(
        self, case: Case, branch_points: Sequence[int], shared: int, length: int
    ) -> None:
        """Fill the cache with a path, of which ``shared`` tokens are cached, stretch by stretch."""
        held = min(shared, length, self._cache.get_seq_length())
        self._cache.crop(held)
        passes = Passes(self._setup, self._cache, None)
        for end in (*branch_points, length):
            if held < end <= length:
                passes.run([Piece(tokens=case.input_ids[held:end], branch=PATH, start=held)])
                self._cache.snapshot()
                held = end

    def _observation(self, answer: Answer) -> Observation:
        """Make the record of a completed answer."""
        generated, probe = answer.generated, self._setup.task.probe
        steps = self._answer_steps(answer.case, generated)
        response = self._setup.rules.text(generated)
        totals = answer.accumulator.totals(steps)
        scores = {name: total.float().cpu().numpy() for name, total in totals.items()}
        for matrix in scores.values():
            require_finite_scores(matrix)
        return Observation(
            case_id=answer.case.case_id,
            generated_ids=tuple(generated),
            step_start=steps.start,
            step_end=steps.stop,
            response=response,
            score=probe.score(response, answer.case),
            scores=scores,
            utility=answer.accumulator.gains(steps),
        )

    def _answer_steps(self, case: Case, generated: list[int]) -> slice:
        """Return the steps to count: the ones that write the answer, or all (forced, reference)."""
        if self._setup.decode == "forced" or self._setup.task.probe.steps == "reference":
            return slice(0, len(generated))
        return slice(*answer_steps(generated, case.answer, self._setup.rules.decode))

"""Run the model on cases: decode greedy answers, and observe every head's attention meanwhile.

The cases are visited along the tree of their prompts with one KV cache, so that a token that
prompts share is run once. The expected answer is run after a prompt as a draft: as far as the model
agrees with it, the draft is the greedy answer, and its attention rows equal the rows of decoding
token by token.

Where a measure watches the question, the question's tokens are run separately, after the same
context: once as they are and once replaced by "N/A".
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from headprobe.attention.finite import (
    NotFinite,
    not_finite,
    require_finite_logits,
    require_finite_scores,
)
from headprobe.attention.logit_attribution import LogitAttribution
from headprobe.attention.observe import forward, observe
from headprobe.attention.prefix_cache import PrefixCache, supports_chunked_prefill
from headprobe.errors import HeadprobeError, HeadprobeWarning, out_of_memory
from headprobe.measures import get_measure
from headprobe.prompts.case import Case, QuestionSpan
from headprobe.runs.memory import LEAST_CHUNK, ChunkSizes
from headprobe.runs.observation import Observation
from headprobe.runs.prefix_tree import PrefixTree, Visit
from headprobe.runs.score_accumulator import ScoreAccumulator
from headprobe.runs.shared_prefixes import question_of, shared_prefixes, watches_question
from headprobe.runs.stops import Stops
from headprobe.tasks import Task
from headprobe.tasks.grading import answer_steps

if TYPE_CHECKING:
    from headprobe.models.loading import LoadedModel

Decode = Literal["greedy", "forced"]

# The most queries whose rows are held at a time, so that their memory grows only with the keys.
_MOST_ROWS = 128


def observe_cases(
    loaded: LoadedModel,
    cases: Sequence[Case],
    task: Task,
    *,
    wanted: Iterable[int] | None = None,
    tree: PrefixTree | None = None,
    decode: Decode = "greedy",
    chunk_sizes: ChunkSizes | None = None,
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

    Raises:
        HeadprobeError: the model's attention cannot be observed, a measure needs weights that
            cannot be read, a token has no embedding, or the device's memory is too small for the
            longest prompt.
    """
    _check_tokens(loaded, cases)
    runner = CaseRunner(
        loaded,
        task,
        decode=decode,
        chunk_sizes=chunk_sizes or ChunkSizes(),
        capacity=_capacity(cases, task),
    )
    tree = tree or PrefixTree.of(shared_prefixes(cases, task))
    for visit in tree.visits(range(len(cases)) if wanted is None else wanted):
        yield runner.observe(cases[visit.prompt], visit)


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
    """Return the most tokens that the KV cache must hold."""
    return max(case.length + task.probe.max_new_tokens(case) for case in cases)


class CaseRunner:
    """Runs a model on one case after another, with the KV cache of the newest prompt."""

    def __init__(
        self,
        loaded: LoadedModel,
        task: Task,
        *,
        decode: Decode,
        chunk_sizes: ChunkSizes,
        capacity: int,
    ) -> None:
        self._loaded = loaded
        self._task = task
        self._decode_mode = decode
        self._chunk_sizes = chunk_sizes
        self._capacity = capacity
        self._asks = watches_question(task)
        attributes_logits = any(get_measure(name).attributes_logits for name in task.measures)
        self._attribution = (
            LogitAttribution(loaded.model, loaded.layout.num_heads) if attributes_logits else None
        )
        self._stops = Stops(loaded)
        self._cache = PrefixCache(loaded.model, capacity)
        self._whole = self._cache.has_recurrent_state and not supports_chunked_prefill(loaded.model)

    def observe(self, case: Case, visit: Visit) -> Observation:
        """Observe one case; if memory runs out, again in smaller chunks."""
        while True:
            try:
                return self._observe(case, visit)
            except torch.OutOfMemoryError as error:
                if self._chunk_sizes.prefill_chunk <= LEAST_CHUNK:
                    raise out_of_memory(error, tokens=case.length) from error
            except NotFinite:
                raise not_finite(self._loaded, case.input_ids) from None
            self._cache = PrefixCache(self._loaded.model, self._capacity)
            torch.cuda.empty_cache()
            self._chunk_sizes = self._chunk_sizes.halved(longest=case.length)
            warnings.warn(
                f"out of memory at {case.length:,} tokens; "
                f"going on with `prefill_chunk={self._chunk_sizes.prefill_chunk}`",
                HeadprobeWarning,
                stacklevel=2,
            )

    @torch.inference_mode()
    def _observe(self, case: Case, visit: Visit) -> Observation:
        probe = self._task.probe
        prompt = torch.tensor([case.input_ids], device=self._loaded.device)
        if self._whole:
            visit = replace(visit, shared=0, branch_points=())
        accumulator = ScoreAccumulator(self._loaded, case, self._task, self._attribution)
        held = self._read_shared_prefix(prompt, visit)
        if self._asks:
            held = self._read_question(prompt, held, question_of(case), accumulator)
        first = probe.first_query(case)
        held = self._read_ahead(prompt[:, : first + 1], held)
        if probe.max_new_tokens(case):
            generated = self._answer(case, prompt[:, held:], accumulator)
        else:
            generated = self._watch(prompt[:, held:], first - held, accumulator)
        steps = self._answer_steps(case, generated)
        response = self._decode(generated).strip()
        scores = {name: t.float().cpu().numpy() for name, t in accumulator.totals(steps).items()}
        for matrix in scores.values():
            require_finite_scores(matrix)
        return Observation(
            case_id=case.case_id,
            generated_ids=tuple(generated),
            step_start=steps.start,
            step_end=steps.stop,
            response=response,
            score=probe.score(response, case),
            scores=scores,
        )

    def _answer_steps(self, case: Case, generated: list[int]) -> slice:
        """Return the steps to count: the ones that write the answer, or all (forced, reference)."""
        if self._decode_mode == "forced" or self._task.probe.steps == "reference":
            return slice(0, len(generated))
        return slice(*answer_steps(generated, case.answer, self._decode))

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self._loaded.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def _read_shared_prefix(self, prompt: Int[Tensor, "1 token"], visit: Visit) -> int:
        """Fill the cache up to the last branch point of a prompt; return its length."""
        held = min(visit.shared, self._cache.get_seq_length())
        self._cache.crop(held)
        for branch_point in (
            branch_point for branch_point in visit.branch_points if branch_point > held
        ):
            self._read(prompt[:, held:branch_point])
            self._cache.snapshot()
            held = branch_point
        return held

    def _read_question(
        self,
        prompt: Int[Tensor, "1 token"],
        held: int,
        question: QuestionSpan,
        accumulator: ScoreAccumulator,
    ) -> int:
        """Score the question's tokens less the tokens of "N/A"; return the cache length."""
        start = 0 if self._whole else question.start
        self._read(prompt[:, held:start])
        self._cache.snapshot()
        nothing = torch.tensor([question.blank_ids], device=prompt.device)
        blank = torch.cat([prompt[:, : question.start], nothing], dim=1)
        for tokens, weight in ((blank, -1.0), (prompt[:, : question.end], 1.0)):
            self._cache.crop(start)
            accumulator.begin("question")
            for piece in self._split(tokens[:, start:]):
                self._see(piece, piece.shape[1] - (question.start - start), accumulator)
            accumulator.choose(tokens[0, question.start :], weight=weight)
        if self._whole:
            self._cache.crop(0)
        return self._cache.get_seq_length()

    def _read_ahead(self, prompt: Int[Tensor, "1 token"], held: int) -> int:
        """Fill the cache up to the last chunk of a prompt; return its length."""
        *ahead, _ = self._split(prompt[:, held:])
        read = sum(piece.shape[1] for piece in ahead)
        self._read(prompt[:, held : held + read])
        return held + read

    def _read(self, tokens: Int[Tensor, "1 token"]) -> None:
        for piece in self._split(tokens):
            forward(
                self._loaded.model,
                piece,
                past_key_values=self._cache,
                logits_to_keep=1,
                use_cache=True,
            )

    def _split(self, tokens: Int[Tensor, "1 token"]) -> list[Int[Tensor, "1 _piece"]]:
        """Split tokens into prefill chunks; a model without chunked prefill gets one chunk."""
        size = tokens.shape[1] if self._whole else self._chunk_sizes.prefill_chunk
        return [piece for piece in torch.split(tokens, max(1, size), dim=1) if piece.shape[1]]

    def _watch(
        self, unread: Int[Tensor, "1 token"], before: int, accumulator: ScoreAccumulator
    ) -> list[int]:
        """Score the rows of the unread tokens after the first ``before``, without any answer."""
        for piece in self._split(unread):
            accumulator.begin("answer")
            self._see(piece, piece.shape[1] - before, accumulator)
            accumulator.choose(piece[0, before:])
            before = 0
        return []

    def _answer(
        self, case: Case, unread: Int[Tensor, "1 token"], accumulator: ScoreAccumulator
    ) -> list[int]:
        """Decode the answer, score each step's attention rows, and return the steps' tokens."""
        most = self._task.probe.max_new_tokens(case)
        expected = list(case.answer_ids[:most])
        if self._decode_mode == "forced":
            self._run(unread, expected[:-1], accumulator, is_first=True)
            accumulator.choose(torch.tensor(expected, device=unread.device))
            return expected
        generated: list[int] = []
        while True:
            draft = self._draft(case, generated)[: most - len(generated) - 1]
            chosen = self._run(unread, draft, accumulator, is_first=not generated)
            steps = self._agreed(draft, chosen.tolist(), generated)
            accumulator.choose(chosen[: len(steps)])
            generated += steps
            if len(generated) == most or self._stops.end(generated):
                return generated
            self._cache.crop(case.length + len(generated) - 1)
            unread = chosen[len(steps) - 1].view(1, 1)

    def _draft(self, case: Case, generated: list[int]) -> list[int]:
        """Draft the next tokens: what follows the newest one in the answer, else in the needle."""
        if self._cache.has_recurrent_state:
            return []
        for known in (case.answer_ids, case.input_ids[case.position : case.span_end]):
            if generated and generated[-1] in known:
                return list(known[known.index(generated[-1]) + 1 :])
        return list(case.answer_ids)

    def _run(
        self,
        unread: Int[Tensor, "1 token"],
        draft: list[int],
        accumulator: ScoreAccumulator,
        *,
        is_first: bool,
    ) -> Int[Tensor, " step"]:
        """Return the tokens that the model chooses after the prompt and after each draft token."""
        tail = torch.tensor([draft], dtype=unread.dtype, device=unread.device)
        steps = len(draft) + 1
        accumulator.begin("answer")
        output = self._see(torch.cat([unread, tail], dim=1), steps, accumulator, logits=steps)
        logits = output.logits[0, -steps:]
        if is_first:
            self._stops.forbid_ends(logits[:1])
        chosen: Tensor = logits.argmax(dim=-1)
        return chosen

    def _see(
        self,
        tokens: Int[Tensor, "1 token"],
        steps: int,
        accumulator: ScoreAccumulator,
        *,
        logits: int = 1,
    ) -> Any:
        """Run the model on tokens, and pass the rows of the last ``steps`` to the accumulator."""
        run = forward
        if self._task.measures:
            keys = self._cache.get_seq_length() + tokens.shape[1]
            row_bytes = _MOST_ROWS * 4 * self._loaded.layout.num_heads * keys
            run = partial(
                observe,
                on_rows=accumulator.see,
                watch=slice(-steps, None),
                chunk_bytes=min(row_bytes, self._chunk_sizes.row_bytes),
            )
        output = run(
            self._loaded.model,
            tokens,
            past_key_values=self._cache,
            logits_to_keep=logits,
            use_cache=True,
        )
        require_finite_logits(output.logits)
        return output

    def _agreed(self, draft: list[int], chosen: list[int], before: list[int]) -> list[int]:
        """Return the greedy tokens: the draft as far as the model chose it, and its next choice."""
        steps: list[int] = []
        for token, drafted in zip(chosen, [*draft, None], strict=True):
            steps.append(token)
            if token != drafted or self._stops.end([*before, *steps]):
                break
        return steps

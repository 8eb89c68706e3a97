"""Greedy decoding over a compressed cache, a step of all sequences at a time.

On a GPU a step of few tokens costs what launching its kernels costs. Where every layer's attention
is one kernel call that depends on nothing but the buffers, the step is captured in a CUDA graph
once and replayed: its kernels are launched together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from headprobe.attention.finite import NotFinite
from headprobe.compression.cache import HeadBudgetCache

_NOT_FINITE = -1
"""The token of a sequence whose logits are NaN or infinite."""

_WORTH_CAPTURING = 8
"""The fewest steps for which a capture, which takes about two steps, is worth it."""


class GreedyDecoder:
    """The greedy continuation of a compressed cache's sequences, inside the cache's ``with``.

    Args:
        model: the model that the cache was made for.
        cache: a compressed cache, all of whose sequences end with the same token position.
        max_new_tokens: steps at most; memory for their entries is set aside.
    """

    def __init__(
        self, model: PreTrainedModel, cache: HeadBudgetCache, *, max_new_tokens: int
    ) -> None:
        self._model = model
        self._cache = cache
        self._left = max_new_tokens
        self._is_warm = False
        self._step: _CapturedStep | None = None
        cache.set_aside(max_new_tokens)

    def answer(
        self,
        first: Int[Tensor, " sequence"],
        is_complete: Callable[[Sequence[int]], bool],
    ) -> list[list[int]]:
        """Continue every sequence from its first token until its tokens are an answer.

        Args:
            first: the first token of each answer.
            is_complete: tells whether an answer's tokens need no further one.

        Returns:
            The tokens of each answer, the first and the one that ends it included.

        Raises:
            NotFinite: some logits are NaN or infinite.
        """
        newest = first
        answers: list[list[int]] = [[] for _ in newest]
        running = list(range(len(answers)))
        going = set(running)
        while True:
            # The one wait for the device in a step.
            for n, token in zip(running, newest.tolist(), strict=True):
                if n in going:
                    if token == _NOT_FINITE:
                        raise NotFinite
                    answers[n].append(token)
            going = {n for n in going if not is_complete(answers[n])}
            if not going:
                return answers
            # To lay the cache out anew costs about a step.
            if 2 * len(going) <= len(running):
                kept = [row for row, n in enumerate(running) if n in going]
                rows = torch.tensor(kept, device=newest.device)
                self.take(rows)
                running, newest = [running[row] for row in kept], newest[rows]
            newest = self.step(newest)

    @torch.inference_mode()
    def step(self, newest: Int[Tensor, " sequence"]) -> Int[Tensor, " sequence"]:
        """Read the newest token of every sequence, and return the next token of each.

        The token is -1 where the logits are NaN or infinite.
        """
        if self._step is None and self._is_warm and self._left >= _WORTH_CAPTURING:
            self._step = _CapturedStep.of(self._model, self._cache, sequences=len(newest))
        self._left -= 1
        if self._step is not None:
            return self._step.replay(newest)
        self._is_warm = True
        return _run(self._model, self._cache, newest[:, None])

    def take(self, sequences: Int[Tensor, " _sequence"]) -> None:
        """Keep these sequences alone, in this order."""
        self._cache.reorder_cache(sequences)  # type: ignore[arg-type]
        self._cache.set_aside(max(self._left, 1))
        self._step = None


class _CapturedStep:
    """A decoding step in a CUDA graph, over the buffers that the cache has now."""

    def __init__(self, model: PreTrainedModel, cache: HeadBudgetCache, *, sequences: int) -> None:
        device = model.device
        self._cache = cache
        self._newest = torch.zeros(sequences, 1, dtype=torch.int64, device=device)
        self._position = torch.full((1, 1), cache.get_seq_length(), device=device)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph), cache.without_mask() as mask:
            self._chosen = _run(
                model, cache, self._newest, attention_mask=mask, position_ids=self._position
            )
            self._position += 1
        self._is_new = True

    @classmethod
    def of(
        cls, model: PreTrainedModel, cache: HeadBudgetCache, *, sequences: int
    ) -> _CapturedStep | None:
        """Capture a step, or return ``None`` where that fails: a model may wait for the device."""
        if not cache.can_be_captured:
            return None
        tokens = cache.get_seq_length()
        try:
            return cls(model, cache, sequences=sequences)
        except RuntimeError:
            cache.rewind(tokens)
            return None

    def replay(self, newest: Int[Tensor, " sequence"]) -> Int[Tensor, " sequence"]:
        """Read the newest tokens, and return the next ones; the next call overwrites them."""
        # While it was captured, the token was counted and nothing ran.
        if not self._is_new:
            self._cache.advance()
        self._is_new = False
        self._newest.copy_(newest[:, None])
        self._graph.replay()
        return self._chosen


def _run(
    model: PreTrainedModel,
    cache: HeadBudgetCache,
    newest: Int[Tensor, "sequence 1"],
    **inputs: Tensor,
) -> Int[Tensor, " sequence"]:
    output = model(newest, past_key_values=cache, use_cache=True, logits_to_keep=1, **inputs)
    highest, chosen = output.logits[:, -1].max(dim=-1)
    # A token that is none, rather than a check here, which would wait for the device.
    return torch.where(torch.isfinite(highest), chosen, _NOT_FINITE)

"""A transformers cache that obeys a budget.

Until it is compressed it holds every token, as transformers' own does. Compression leaves each head
the entries that the budget grants it in a context of that length; tokens that come later are all
kept, up to the next compression. The model's own attention function works on the whole cache,
``attend`` works on a compressed cache.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from headprobe.attention.logit_attribution import output_projections
from headprobe.attention.observe import patched_attention
from headprobe.attention.prefix_cache import check_cache
from headprobe.attention.rotary import RotaryWatch
from headprobe.attention.rows import check_attention_kwargs
from headprobe.budgets import HeadBudgets
from headprobe.compression.layer import BudgetLayer
from headprobe.compression.masks import CausalMasks, check_mask
from headprobe.compression.reconstruction import Repetition, repeat_context
from headprobe.compression.selections import needs_of
from headprobe.compression.sharing import share_across_model
from headprobe.compression.target import Target
from headprobe.errors import HeadprobeError
from headprobe.models.config import check_layout


class HeadBudgetCache(Cache):
    """A KV cache whose heads hold different numbers of entries, and no memory for more.

    ::

        with HeadBudgetCache(model, budgets, compress_at=prompt.shape[1]) as cache:
            output = model.generate(prompt, past_key_values=cache)

    The model must be called with the cache inside the ``with``, under any number of prefill chunks;
    batches are padded on the left. Other calls of the model are left alone. For inference only.

    Layers that cache keys and values of heads are compressed. Layers with a sliding window or
    chunks count the tokens inside as their context, and hold what is outside too until they are
    compressed. Layers without attention (lfm2's convolutions), or that cache something else, keep
    transformers' own.

    Args:
        model: a causal language model whose attention goes through AttentionInterface.
        budgets: made for a model of its layout. Where query heads share a KV head, their attention
            is reduced as the strategy's ``reduce`` says, else by their mean. With granularity
            ``query`` each query head stores entries of its own.
        compress_at: the tokens after which to compress, padding included. The forward pass that
            ends there sees everything; each layer is compressed when its attention is done.
            ``None`` leaves it to ``compress``. For the next turn of a conversation it may be set
            anew, to a number not yet reached. A compressed cache keeps queries only while such a
            compression is ahead, so of the newest ``window`` queries only the ones choose that came
            since it was set.
        floor: divide what a layer's heads keep by what their entries are worth, prompt by prompt,
            as Ada-KV does; every head keeps at least this fraction of its own entries, 0 to 1.
        selections: further selections that targets of ``fork`` have, for which to gather what they
            need besides keys, values and the newest queries.

    Raises:
        HeadprobeError: the budget is of other heads or names an unknown reduction, or the
            model has no layer whose cache could be compressed, or needs a cache of its own kind.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        budgets: HeadBudgets,
        *,
        compress_at: int | None = None,
        floor: float | None = None,
        selections: Collection[str] = (),
    ) -> None:
        check_layout(model.config, budgets.layout)
        check_cache(model)
        target = Target(budgets=budgets, floor=floor)
        layers = [
            BudgetLayer([target], index)
            if type(layer) in (DynamicLayer, DynamicSlidingWindowLayer)
            else layer
            for index, layer in enumerate(DynamicCache(config=model.config).layers)
        ]
        super().__init__(layers=layers)
        self._own = [layer for layer in layers if isinstance(layer, BudgetLayer)]
        if not self._own:
            raise HeadprobeError(
                f"cannot compress the cache of a {model.config.model_type!r} model: "
                "no layer of it caches keys and values of heads"
            )
        self.needs = needs_of({*selections, *np.unique(budgets.selection).tolist()})
        if "output" in self.needs:
            self._find_outputs(model, budgets.layout.num_heads)
        self._rotary = RotaryWatch(model) if "queries" in self.needs else None
        self.compress_at = compress_at
        self._layers = budgets.layout.layers
        self._model = model
        self._patch: ExitStack | None = None
        self._implementation = ""
        self._masks = CausalMasks()
        self._no_mask: Tensor | None = None
        self._has_terms = False

    def __enter__(self) -> HeadBudgetCache:
        if self._patch is not None:
            raise ValueError("expected a cache that is not in use, got one inside its `with`")
        with ExitStack() as patches:
            patches.enter_context(patched_attention(self._model, self._attend))
            if self._rotary is not None:
                patches.enter_context(self._rotary.watching(self._model))
            self._patch = patches.pop_all()
        config = self._model.config.get_text_config(decoder=True)
        self._implementation = str(config._attn_implementation)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        patch, self._patch = self._patch, None
        assert patch is not None
        patch.__exit__(kind, error, traceback)
        if error is None:
            for layer in self._own:
                layer.check_attended()

    def _find_outputs(self, model: PreTrainedModel, heads: int) -> None:
        outputs = output_projections(model, heads)
        for layer in self._own:
            weight = outputs[layer.index]
            layer.output = weight.T.reshape(heads, -1, len(weight))

    def reconstruct(self, repetitions: Sequence[Repetition]) -> None:
        """Make the model repeat what the cache holds, before compression by ``reconstruct``.

        What the cache holds, and what it knows of the newest queries, stays as it is. Of tokens
        that come later only those need to be repeated: the largest attention of all repetitions
        counts.

        Raises:
            ValueError: the cache is compressed, is empty or holds more than one sequence.
        """
        layers = {layer.index: layer for layer in self._own}
        if any(layer.is_compressed for layer in self._own) or self.entries.shape[1] != 1:
            raise ValueError("expected a cache of one sequence that is not compressed, to repeat")
        for index, found in repeat_context(self._model, self, repetitions).items():
            layers[index].add_reconstruction(found)

    def compress(self) -> None:
        """Compress every head to the budget, now, by the attention of the newest queries.

        Raises:
            ValueError: there is nothing in the cache, its newest token is padding, or it was
                compressed before and no further compression was ahead when the newest tokens came.
        """
        for layer in self._own:
            layer.compress()

    def fork(self, targets: Sequence[Target], *, keep: bool = True) -> HeadBudgetCache:
        """Copy the cache into a compressed one, its one sequence once for each of the ``targets``.

        So a prompt is read once for all targets. This cache must not be compressed yet, and its
        budget's window must be no smaller than the targets'. It stays as it is, or with ``keep``
        false is emptied layer by layer, so that nothing is held twice.

        Raises:
            HeadprobeError: a target is of other heads or names an unknown reduction.
            ValueError: this cache is compressed or empty or holds more than one sequence, its
                window was smaller, or the targets differ in granularity.
        """
        for target in targets:
            check_layout(self._model.config, target.budgets.layout)
        if len({target.budgets.granularity for target in targets}) != 1:
            raise ValueError("expected targets of one granularity")
        if self.entries.shape[1] != 1:
            raise ValueError(f"expected one sequence to fork, got {self.entries.shape[1]}")
        targets = share_across_model(targets, self._own)
        forked = copy.copy(self)
        forked.layers = [
            layer.fork(targets, keep=keep)
            if isinstance(layer, BudgetLayer)
            else _repeated(layer, targets)
            for layer in self.layers
        ]
        forked._start_anew()
        return forked

    def branch(self) -> HeadBudgetCache:
        """Copy the cache, which is not compressed: tokens that come later are each one's own.

        So a context is read once for all that is asked about it.

        Raises:
            ValueError: this cache is compressed.
        """
        branch = copy.copy(self)
        branch.layers = [
            layer.branch() if isinstance(layer, BudgetLayer) else copy.deepcopy(layer)
            for layer in self.layers
        ]
        branch._start_anew()
        return branch

    @property
    def can_join(self) -> bool:
        """True where every layer has a budget, so that ``join`` can be called."""
        return len(self._own) == len(self.layers)

    def join(self, other: HeadBudgetCache) -> HeadBudgetCache:
        """Join the sequences of this cache and then of another cache in one batch.

        Both caches are compressed and have seen the same number of tokens; they must not be used
        any more.

        Raises:
            ValueError: one is not compressed, they differ in tokens or granularity, or some layer
                of the model has no budget.
        """
        lengths = {cache.get_seq_length() for cache in (self, other)}
        is_compressed = all(layer.is_compressed for cache in (self, other) for layer in cache._own)
        if len(lengths) > 1 or not is_compressed or not self.can_join:
            raise ValueError("expected compressed caches of the same number of tokens")
        joined = copy.copy(self)
        joined.layers = [one.join(two) for one, two in zip(self._own, other._own, strict=True)]
        joined._start_anew()
        return joined

    def _start_anew(self) -> None:
        self._own = [layer for layer in self.layers if isinstance(layer, BudgetLayer)]
        self._patch = self.compress_at = None
        self._masks = CausalMasks()

    def set_aside(self, tokens: int) -> None:
        """Reserve memory in compressed layers for more tokens, to add them without a copy."""
        for layer in self._own:
            layer.set_aside(tokens)

    @property
    def can_be_captured(self) -> bool:
        """True where a step is one kernel call a layer that depends on the buffers alone.

        It is known once the cache is compressed and a step was made.
        """
        one_call = all(layer.has_varlen_kernel for layer in self._own)
        return self.can_join and one_call and not self._has_terms

    @contextmanager
    def without_mask(self) -> Iterator[Tensor]:
        """Provide a mask that stands for none: given it, a model makes no mask of its own."""
        self._no_mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self._model.device)
        try:
            yield self._no_mask
        finally:
            self._no_mask = None

    def advance(self) -> None:
        """Count the token that the replay of a captured step adds."""
        for layer in self._own:
            layer.advance(1)

    def rewind(self, tokens: int) -> None:
        """Set the count back to ``tokens``: later tokens were counted, but never added."""
        for layer in self._own:
            layer.advance(tokens - layer.get_seq_length())
            layer.attended = True

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the layers with a budget hold, all their tensors included."""
        storages = [held.untyped_storage() for layer in self._own for held in layer.tensors]
        sizes = {(one.device, one.data_ptr()): one.nbytes() for one in storages}
        return sum(sizes.values())

    @property
    def entries(self) -> Int[np.ndarray, "layer sequence head"]:
        """Entries that every head holds, compensation entries included.

        Heads are of the budget's granularity; layers without a budget hold 0.
        """
        lengths = {layer.index: layer.lengths for layer in self._own}
        none = np.zeros_like(next(iter(lengths.values())))
        return np.stack([lengths.get(index, none) for index in range(self._layers)])

    @property
    def capacity(self) -> Int[np.ndarray, " layer"]:
        """Entries that compression could leave a head of each layer: the tokens in its window.

        Layers without a budget have room for none.

        Raises:
            ValueError: the cache is empty or compressed.
        """
        capacities = {layer.index: layer.capacity for layer in self._own}
        return np.array([capacities.get(index, 0) for index in range(self._layers)])

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add a layer's new keys and values; called by the model."""
        if self._patch is None:
            raise ValueError("expected the model to be called inside the cache's `with`")
        start = self.get_seq_length(layer_idx)
        self._check_compress_at(layer_idx, start, start + key_states.shape[2])
        given: tuple[Tensor, Tensor] = super().update(
            key_states, value_states, layer_idx, *args, **kwargs
        )
        return given

    def _check_compress_at(self, index: int, start: int, stop: int) -> None:
        """Refuse a forward pass from ``start`` to ``stop`` that would miss the compression."""
        if self.compress_at is None or stop <= self.compress_at:
            return
        if start < self.compress_at:
            raise ValueError(
                f"expected a forward pass to end at token {self.compress_at}, where the cache is "
                f"compressed, got one from token {start} to {stop}"
            )
        layer = self.layers[index]
        if isinstance(layer, BudgetLayer) and layer.compressed_after != self.compress_at:
            raise ValueError(
                f"expected `compress_at` to be more than the {start} tokens already seen, "
                f"got {self.compress_at}; it counts all tokens, those of earlier turns too"
            )

    def _attend(
        self,
        original: Callable[..., Any],
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        **attention_kwargs: Any,
    ) -> Any:
        """Compute attention in place of the model's attention function."""
        layer = self._holder(module.layer_idx, key)
        before = None if self._rotary is None else self._rotary.before(query, key)
        if layer is None:
            return original(module, query, key, value, attention_mask, **attention_kwargs)
        if attention_mask is self._no_mask:
            attention_mask = None
        check_attention_kwargs(self._implementation, attention_kwargs)
        check_mask(attention_mask)
        if layer.is_compressed:
            tokens = layer.get_seq_length()
            queries = range(tokens - query.shape[2], tokens)
            is_causal = self._masks.is_causal(attention_mask, queries, attention_kwargs)
            output = layer.attend(query, attention_mask, attention_kwargs, is_causal=is_causal)
            result = output, None
            terms = (attention_kwargs.get(name) for name in ("softcap", "sliding_window"))
            self._has_terms |= any(term is not None for term in terms)
        else:
            result = original(module, query, key, value, attention_mask, **attention_kwargs)
        if layer.index == module.layer_idx:
            layer.see(
                query, attention_mask, attention_kwargs, before=before, compress_at=self.compress_at
            )
        return result

    def _holder(self, index: int, key: Tensor) -> BudgetLayer | None:
        """Find the layer that handed out these keys: layer ``index`` or one that shares them."""
        # Layers that share the keys of others stand last, and may have no cache at all.
        own = self.layers[index] if index < len(self.layers) else None
        if isinstance(own, BudgetLayer) and own.has_given(key):
            return own
        return next((layer for layer in self._own if layer.has_given(key)), None)


def _repeated(layer: Any, targets: Sequence[Target]) -> Any:
    """Copy a layer without a budget, its one sequence repeated once for each target."""
    own = copy.deepcopy(layer)
    own.reorder_cache(torch.zeros(len(targets), dtype=torch.int64))
    return own

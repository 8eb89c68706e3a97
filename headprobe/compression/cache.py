"""A transformers cache that obeys a budget.

Until it is cut it holds every token, as transformers' own does. A cut leaves each head the entries
that the budget grants it in a context of that length; tokens that come later are all kept, up to
the next cut. The model's own attention function works on the whole cache, ``attend`` on a cut one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from itertools import chain
from types import TracebackType
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from headprobe.attention import attention_rows, check_terms, intercepted
from headprobe.budgets import HeadBudgets
from headprobe.compression.attend import attend, check_mask, seen
from headprobe.compression.compensation import compensate
from headprobe.compression.ragged import COMPENSATION, Ragged, Stream
from headprobe.compression.selection import select
from headprobe.errors import HeadprobeError
from headprobe.model import head_layout

_REDUCTIONS: dict[str, Callable[..., Any]] = {
    "mean": torch.mean,
    "max": torch.amax,
    "sum": torch.sum,
}
_SCORE_TERMS = ("scaling", "softcap", "s_aux", "sliding_window")


class HeadBudgetCache(Cache):
    """A KV cache whose heads hold different numbers of entries, and no memory for more.

    ::

        with HeadBudgetCache(model, budgets, cut_at=prompt.shape[1]) as cache:
            output = model.generate(prompt, past_key_values=cache)

    The model must be called with it inside the ``with``, under any number of prefill chunks;
    batches are padded on the left. Other calls of the model are left alone. For inference only.

    Layers that cache keys and values of heads are cut. Those with a sliding window or chunks count
    the tokens inside as their context, and hold what is outside too until they are cut. Layers
    without attention (lfm2's convolutions), or that cache something else, keep transformers' own.

    Args:
        model: a causal language model whose attention goes through AttentionInterface.
        budgets: made for a model of its layout. Where query heads share a KV head, their attention
            is reduced as the strategy's ``reduce`` says, else by their mean. With granularity
            ``query`` each query head stores entries of its own.
        cut_at: the number of tokens after which to cut, padding included. The forward pass that
            ends there sees everything; each layer is cut when its attention is done. For the next
            turn of a conversation it may be set anew. ``None`` leaves it to ``cut``.

    Raises:
        HeadprobeError: the budget is for another layout or names an unknown reduction, or the
            model has no layer whose cache could be cut.
    """

    def __init__(
        self, model: PreTrainedModel, budgets: HeadBudgets, *, cut_at: int | None = None
    ) -> None:
        _check_budgets(model, budgets)
        layers = [
            _BudgetLayer(budgets, index)
            if type(layer) in (DynamicLayer, DynamicSlidingWindowLayer)
            else layer
            for index, layer in enumerate(DynamicCache(config=model.config).layers)
        ]
        super().__init__(layers=layers)
        self._own = [layer for layer in layers if isinstance(layer, _BudgetLayer)]
        if not self._own:
            raise HeadprobeError(
                f"cannot cut the cache of a {model.config.model_type!r} model: "
                "no layer of it caches keys and values of heads"
            )
        self.cut_at = cut_at
        self._layers = budgets.layout.layers
        self._model = model
        self._interception: AbstractContextManager[None] | None = None

    def __enter__(self) -> HeadBudgetCache:
        if self._interception is not None:
            raise ValueError("expected a cache that is not in use, got one inside its `with`")
        interception = intercepted(self._model, self._attend)
        interception.__enter__()
        self._interception = interception
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        interception, self._interception = self._interception, None
        assert interception is not None
        interception.__exit__(kind, error, traceback)
        if error is None:
            for layer in self._own:
                layer.check_attended()

    def cut(self) -> None:
        """Cut every head down to the budget, now, by the attention of the newest queries.

        Raises:
            ValueError: there is nothing in the cache, or its newest token is padding.
        """
        for layer in self._own:
            layer.cut()

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the layers with a budget hold."""
        return sum(layer.nbytes for layer in self._own)

    @property
    def entries(self) -> Int[np.ndarray, "layer sequence head"]:
        """Entries that every head holds, compensation entries included.

        Heads are those of the budget's granularity; layers without a budget hold 0.
        """
        lengths = {layer.index: layer.lengths for layer in self._own}
        none = np.zeros_like(next(iter(lengths.values())))
        return np.stack([lengths.get(index, none) for index in range(self._layers)])

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add a layer's new keys and values; called by the model."""
        if self._interception is None:
            raise ValueError("expected the model to be called inside the cache's `with`")
        start = self.get_seq_length(layer_idx)
        stop = start + key_states.shape[2]
        if self.cut_at is not None and start < self.cut_at < stop:
            raise ValueError(
                f"expected a forward pass to end at token {self.cut_at}, where the cache is cut, "
                f"got one from token {start} to {stop}"
            )
        keys, values = super().update(key_states, value_states, layer_idx, *args, **kwargs)
        return keys, values

    def _attend(
        self,
        original: Callable[..., Any],
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Any,
        **terms: Any,
    ) -> Any:
        """Stands in for the model's attention function."""
        layer = self._holder(module.layer_idx, key)
        if layer is None:
            return original(module, query, key, value, attention_mask, **terms)
        config = self._model.config.get_text_config(decoder=True)
        check_terms(config._attn_implementation, terms)
        check_mask(attention_mask)
        if layer.is_cut:
            result = layer.attend(query, attention_mask, terms), None
        else:
            result = original(module, query, key, value, attention_mask, **terms)
        if layer.index == module.layer_idx:
            layer.watch(query, attention_mask, terms)
            if layer.get_seq_length() == self.cut_at:
                layer.cut()
        return result

    def _holder(self, index: int, key: Tensor) -> _BudgetLayer | None:
        """The layer that handed out these keys: this one, or the one it shares them with."""
        # Layers that share the keys of others stand last, and may have no cache at all.
        candidates = chain(self.layers[index : index + 1], self._own)
        return next((layer for layer in candidates if _gave(layer, key)), None)


class _BudgetLayer(DynamicLayer):
    """One layer: transformers' own cache of every token until it is cut, then ragged.

    ``given`` are the keys that the last update handed to the model.
    """

    is_croppable = False

    def __init__(self, budgets: HeadBudgets, index: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.index = index
        self._budgets = budgets
        self._heads = budgets.tokens.shape[1]
        self._start_over()

    def _start_over(self) -> None:
        self.given: Tensor | None = None
        self._tokens = 0
        self._ragged: Ragged | None = None
        self._attended = True
        self._recent: deque[Tensor] = deque()
        self._mask: Tensor | None = None
        self._terms: dict[str, Any] = {}

    @property
    def is_cut(self) -> bool:
        return self._ragged is not None

    @property
    def nbytes(self) -> int:
        if self._ragged is not None:
            return self._ragged.nbytes
        return sum(t.nbytes for t in (self.keys, self.values) if t is not None)

    @property
    def lengths(self) -> Int[np.ndarray, "sequence head"]:
        if self._ragged is not None:
            return np.array(self._ragged.lengths).reshape(-1, self._heads)
        batch = 0 if self.keys is None else len(self.keys)
        return np.full((batch, self._heads), self._tokens)

    def get_seq_length(self) -> int:
        return self._tokens

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add new tokens; once cut, what comes back is these alone."""
        self.check_attended()
        if key_states.shape[1] != self._budgets.layout.kv_heads:
            raise HeadprobeError(
                f"cannot cut the cache: layer {self.index} of the model caches "
                f"{key_states.shape[1]} heads, not {self._budgets.layout.kv_heads} KV heads"
            )
        if self._ragged is None:
            keys, values = super().update(key_states, value_states)
        else:
            keys, values = key_states, value_states
            self._ragged.append(self._by_stream(keys), self._by_stream(values), self._tokens)
        self._tokens += key_states.shape[2]
        self._attended = False
        self.given = keys
        return keys, values

    def check_attended(self) -> None:
        """Refuse a model that works on something else than the keys it caches (deepseek_v3)."""
        if not self._attended:
            raise HeadprobeError(
                f"cannot cut the cache: layer {self.index} of the model does not hand the keys "
                "that it caches to its attention function"
            )

    def attend(self, query: Tensor, mask: Tensor | None, terms: dict[str, Any]) -> Tensor:
        """The attention output over what is kept, as the attention function returns it."""
        assert self._ragged is not None
        position = self._tokens - query.shape[2]
        output: Tensor = attend(self._ragged, query, mask, position=position, terms=terms)
        return output

    def watch(self, query: Tensor, mask: Tensor | None, terms: dict[str, Any]) -> None:
        """Keep what a cut needs: the newest queries, and what the last one sees."""
        self._attended = True
        newest = self._newest
        self._recent.append(query[:, :, -newest:].clone() if query.shape[2] > newest else query)
        while sum(part.shape[2] for part in self._recent) - self._recent[0].shape[2] >= newest:
            self._recent.popleft()
        self._mask = mask[:, :, -1:].clone() if mask is not None and mask.ndim == 4 else mask
        self._terms = {name: terms.get(name) for name in _SCORE_TERMS}

    @torch.no_grad()
    def cut(self) -> None:
        """Leave each head what the budget grants it in a context of the tokens now seen."""
        if not self._tokens:
            raise ValueError("expected tokens in the cache before it is cut, got none")
        streams = self._streams()
        visible = self._visible(len(streams) // self._heads)
        kept: list[Stream] = []
        for sequence, allowed in enumerate(visible):
            if not allowed[-1]:
                raise ValueError("expected padding on the left, got a sequence that ends in it")
            grants = self._budgets.kept(int(allowed.sum()))[self.index]
            for head in range(self._heads):
                stream = streams[sequence * self._heads + head]
                kept.append(self._shorten(stream, sequence, head, int(grants[head]), allowed))
        self._ragged = Ragged(kept)
        self.keys = self.values = self.given = None

    def _shorten(
        self,
        stream: Stream,
        sequence: int,
        head: int,
        kept: int,
        allowed: Bool[Tensor, " token"],
    ) -> Stream:
        first = int(stream.weight > 0)
        entries = allowed[stream.positions[first:].long()].nonzero().flatten() + first
        attention = None
        if kept < len(entries) and self._budgets.selection[self.index, head] == "attention":
            attention = self._attention(stream, sequence, head, allowed)[entries]
        chosen = select(
            entries,
            kept,
            window=self._budgets.window,
            sinks=self._budgets.sinks,
            attention=attention,
        )
        keys, values, positions = (
            whole[chosen] for whole in (stream.keys, stream.values, stream.positions)
        )
        weight = stream.weight + len(entries) - len(chosen)
        if not self._budgets.compensation or not weight:
            return Stream(keys=keys, values=values, positions=positions)
        dropped = torch.zeros_like(stream.positions, dtype=torch.bool)
        dropped[entries], dropped[chosen] = True, False
        key, value = (
            compensate(whole[dropped], whole[:1], stream.weight)
            for whole in (stream.keys, stream.values)
        )
        return Stream(
            keys=torch.cat([key, keys]),
            values=torch.cat([value, values]),
            positions=torch.cat([positions.new_full((1,), COMPENSATION), positions]),
            weight=weight,
        )

    def _attention(
        self, stream: Stream, sequence: int, head: int, allowed: Bool[Tensor, " token"]
    ) -> Float32[Tensor, " key"]:
        """Mean attention of the newest queries to the entries that can still be seen."""
        recent = torch.cat(list(self._recent), dim=2)[sequence, :, -self._newest :]
        group = len(recent) // self._heads
        heads = slice(head * group, (head + 1) * group)
        at = torch.arange(self._tokens - recent.shape[1], self._tokens, device=recent.device)
        real = allowed[at]
        compensation = stream.positions == COMPENSATION
        visible = compensation | allowed[stream.positions.long().clamp(min=0)]
        mask = visible & (stream.positions <= at[real][:, None])
        scores = torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, -torch.inf)
        scores[:, compensation] = np.log(max(stream.weight, 1))
        sinks = self._terms.get("s_aux")
        rows = attention_rows(
            recent[heads][:, real],
            stream.keys[None].float(),
            scores[None],
            self._terms | {"s_aux": None if sinks is None else sinks[heads]},
        )
        # A query whose own entry was cut away may see none.
        mean = rows.nan_to_num().mean(dim=1)
        reduced: Tensor = _REDUCTIONS[_reduction(self._budgets)](mean, dim=0)
        return reduced

    @property
    def _newest(self) -> int:
        """How many of the newest queries choose."""
        return max(self._budgets.window, 1)

    def _visible(self, batch: int) -> Bool[Tensor, "sequence token"]:
        """The tokens that the newest query sees: neither padding nor outside a sliding window."""
        device = self._recent[-1].device
        tokens = torch.arange(self._tokens, device=device).expand(batch, -1)
        last = range(self._tokens - 1, self._tokens)
        sequences = torch.arange(batch, device=device)
        found = seen(self._mask, sequences, tokens, last, self._terms)
        if found is None:
            return torch.ones_like(tokens, dtype=torch.bool)
        if found.dtype != torch.bool:
            found = found > torch.finfo(found.dtype).min / 2
        return found[:, 0]

    def _streams(self) -> list[Stream]:
        if self._ragged is not None:
            return self._ragged.streams()
        assert self.keys is not None
        assert self.values is not None
        keys, values = self._by_stream(self.keys), self._by_stream(self.values)
        positions = torch.arange(self._tokens, dtype=torch.int32, device=keys.device)
        return [
            Stream(keys=key, values=value, positions=positions)
            for key, value in zip(keys, values, strict=True)
        ]

    def _by_stream(
        self, states: Float[Tensor, "sequence kv_head token dim"]
    ) -> Float[Tensor, "stream token dim"]:
        """One for each head of the budget: with granularity ``query`` a KV head stands for each."""
        copies = self._heads // states.shape[1]
        return states.detach()[:, :, None].expand(-1, -1, copies, -1, -1).flatten(0, 2)

    def reset(self) -> None:
        """Empty it."""
        self.keys = self.values = None
        self.is_initialized = False
        self._start_over()

    def crop(self, tokens_to_remove: int) -> None:
        """Not possible: what was cut away is gone."""
        raise ValueError("expected no call of crop: a cache with a budget cannot be taken back")

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take these sequences of the batch, as a step of a beam search does."""
        self._take(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Take these sequences of the batch."""
        self._take(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Take every sequence of the batch that often."""
        if self._recent:
            self._take(torch.arange(len(self._recent[0])).repeat_interleave(repeats))

    def _take(self, sequences: Tensor) -> None:
        if not self._recent:
            return
        if self._ragged is None:
            super().batch_select_indices(sequences)
        else:
            streams = self._ragged.streams()
            starts = [number * self._heads for number in sequences.tolist()]
            taken = [streams[start + head] for start in starts for head in range(self._heads)]
            self._ragged = Ragged(taken)
        self._recent = deque(part[sequences.to(part.device)] for part in self._recent)
        if self._mask is not None and len(self._mask) > 1:
            self._mask = self._mask[sequences.to(self._mask.device)]


def _gave(layer: Any, key: Tensor) -> bool:
    return isinstance(layer, _BudgetLayer) and layer.given is key


def _check_budgets(model: PreTrainedModel, budgets: HeadBudgets) -> None:
    found, wanted = head_layout(model.config, id=budgets.layout.id), budgets.layout
    for name in ("layers", "heads", "kv_heads"):
        if getattr(found, name) != getattr(wanted, name):
            raise HeadprobeError(
                f"the budget is for a model with {getattr(wanted, name)} {name} "
                f"({wanted.id}), this one has {getattr(found, name)}; allocate one for it"
            )
    if _reduction(budgets) not in _REDUCTIONS:
        raise HeadprobeError(
            f"the budget reduces scores by {_reduction(budgets)!r}; "
            f"known are {', '.join(_REDUCTIONS)}"
        )


def _reduction(budgets: HeadBudgets) -> str:
    return str(budgets.strategy.get("reduce") or "mean")

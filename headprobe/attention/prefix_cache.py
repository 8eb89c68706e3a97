"""A KV cache that can be cropped to any prefix of the tokens it holds."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, __version__
from transformers.cache_utils import CacheLayerMixin, DynamicCache, DynamicLayer

from headprobe.attention.observe import modelling_files
from headprobe.errors import HeadprobeError
from headprobe.models.logits import last_position


class PrefixCache(DynamicCache):
    """The KV cache of one sequence, which ``crop`` takes back to an earlier length.

    Every attention layer keeps every position, layers with a sliding window too; the masks still
    hide what lies outside a window. Layers that cannot forget their newest tokens (convolutions,
    recurrent states) are copied by ``snapshot``, and then ``crop`` needs a length with a snapshot.

    Args:
        model: the model, whose configuration tells the kinds of its layers.
        capacity: the number of tokens that memory is set aside for; more can be added, at the
            price of a copy.

    Raises:
        HeadprobeError: the model needs a cache of its own kind.
    """

    def __init__(self, model: PreTrainedModel, capacity: int) -> None:
        check_cache(model)
        super().__init__(config=model.config)
        for index, layer in enumerate(self.layers):
            sliding = getattr(layer, "is_sliding", False)
            if not _has_state(layer) and (sliding or type(layer) is DynamicLayer):
                self.layers[index] = _PreallocatedLayer(capacity)
        self._recurrent = [i for i, layer in enumerate(self.layers) if _has_state(layer)]
        self._snapshots: dict[int, dict[int, Any]] = {}
        self.snapshot()

    @property
    def has_recurrent_state(self) -> bool:
        """True if some layer can be cropped only to a length with a snapshot."""
        return bool(self._recurrent)

    def snapshot(self) -> None:
        """Copy the recurrent states, so that ``crop`` can return to the present length."""
        copies = {index: deepcopy(self.layers[index]) for index in self._recurrent}
        self._snapshots[self.get_seq_length()] = copies

    def crop(self, length: int) -> None:
        """Forget all but the first ``length`` tokens.

        Raises:
            ValueError: a layer keeps a state, and ``snapshot`` was not called at that length.
        """
        surplus = self.get_seq_length() - length
        if surplus == 0:
            return
        if self._recurrent and length not in self._snapshots:
            raise ValueError(f"expected a length with a snapshot, got {length}")
        for index, layer in enumerate(self.layers):
            if index in self._recurrent:
                self.layers[index] = deepcopy(self._snapshots[length][index])
            else:
                layer.crop(-surplus)  # type: ignore[union-attr]
        self._snapshots = {at: copies for at, copies in self._snapshots.items() if at <= length}


def read_through(
    model: PreTrainedModel,
    ids: Int[Tensor, "1 token"],
    *,
    prefill_chunk: int,
    run: Callable[..., Any],
) -> PrefixCache:
    """Let a model read a text, chunk by chunk where it can; return the cache of the whole text.

    Args:
        model: a causal language model.
        ids: the text.
        prefill_chunk: the number of tokens that a forward pass reads.
        run: runs the model on a chunk, given as the model is given it; what watches the passes
            begins and ends in it, for the model is tried before the first.
    """
    cache = PrefixCache(model, ids.shape[1])
    chunk = ids.shape[1] if reads_whole(model) else prefill_chunk
    for piece in torch.split(ids, chunk, dim=1):
        run(piece, past_key_values=cache, logits_to_keep=last_position(piece), use_cache=True)
    return cache


def check_cache(model: PreTrainedModel) -> None:
    """Refuse a model that runs only with a cache class of its own modelling file.

    Raises:
        HeadprobeError: the model is such a one: minimax, and before transformers 5.5 every hybrid.
    """
    for file in modelling_files(model.modules()):
        for kind in vars(file).values():
            own = inspect.isclass(kind) and kind.__module__ == file.__name__
            if own and hasattr(kind, "get_seq_length") and not issubclass(kind, CacheLayerMixin):
                raise HeadprobeError(
                    f"cannot follow a {model.config.model_type!r} model: in transformers "
                    f"{__version__} it runs with a cache of its own alone, {kind.__name__}; "
                    "try a newer release"
                )


def _has_state(layer: Any) -> bool:
    """Tell whether a cache layer keeps a state of a convolution or a recurrence."""
    return hasattr(layer, "conv_states")


class _PreallocatedLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's keys and values in memory allocated once, so that a step copies nothing."""

    def __init__(self, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._capacity = capacity

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate memory for ``capacity`` tokens."""
        self.dtype, self.device = key_states.dtype, key_states.device
        self._kept = [self._set_aside(states) for states in (key_states, value_states)]
        self.is_initialized = True

    def update(
        self,
        key_states: Float[Tensor, "batch kv_head token head_dim"],
        value_states: Float[Tensor, "batch kv_head token value_dim"],
        *_: Any,
        **__: Any,
    ) -> tuple[Tensor, Tensor]:
        """Add keys and values, and return views of all that the layer keeps."""
        start = self.get_seq_length()
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        stop = start + key_states.shape[-2]
        if stop > self._capacity:
            self._capacity = 2 * stop
            before, self._kept = self._kept, [self._set_aside(kept) for kept in self._kept]
            for old, kept in zip(before, self._kept, strict=True):
                kept[..., :start, :] = old[..., :start, :]
        for kept, states in zip(self._kept, (key_states, value_states), strict=True):
            kept[..., start:stop, :] = states
        self.keys, self.values = (kept[..., :stop, :] for kept in self._kept)
        return self.keys, self.values

    def _set_aside(self, states: Tensor) -> Tensor:
        batch, heads, _, width = states.shape
        return states.new_empty((batch, heads, self._capacity, width))


def reads_whole(model: PreTrainedModel) -> bool:
    """Tell whether a model must read a text in one forward pass, whatever its length."""
    return PrefixCache(model, 1).has_recurrent_state and not supports_chunked_prefill(model)


@torch.no_grad()
def supports_chunked_prefill(model: PreTrainedModel) -> bool:
    """Tell whether a model computes the same logits from a text in two chunks as from the whole.

    Some models with a recurrent state (jamba) reset it at every chunk of more than one token.
    """
    text = torch.arange(1, 13, device=model.device)[None]
    whole = model(text, use_cache=False).logits[0, 6:].float()
    cache = PrefixCache(model, text.shape[1])
    for piece in torch.split(text, 6, dim=1):
        second = model(piece, past_key_values=cache, use_cache=True).logits[0].float()
    tolerance = torch.finfo(model.dtype).eps ** 0.5 * (whole.max() - whole.min())
    return bool((second - whole).abs().max() <= tolerance)

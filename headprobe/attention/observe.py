"""Observe a model's attention or replace it: the only file that knows AttentionInterface.

transformers hands every layer's query and key (positions rotated in), its mask and its scaling to
one function, found by name in a registry (huggingface.co/docs/transformers/attention_interface).
``patched_attention`` wraps the function that a model uses. The wrapper stands under the function's
own name because models choose masks and shortcuts by that name: under a new one, DeepSeek-V3.2 and
Gemma 4 give other logits. Nothing in the model is changed. ``observe`` wraps it for one forward
pass: the layer's output is what the function returns, and the softmax rows of the watched queries
are computed in addition.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from headprobe.attention.branches import Layout
from headprobe.attention.kernels import allowed_kernels, share_heads
from headprobe.attention.rows import (
    AttentionRows,
    attention_rows,
    causal_mask,
    check_attention_kwargs,
)
from headprobe.errors import HeadprobeError

_EAGER = "eager_attention_forward"


OnRows = Callable[[AttentionRows], None]
_Chunk = tuple[slice | Tensor, Int[Tensor, " watched"]]


def observe(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "batch token"],
    on_rows: OnRows,
    *,
    watch: slice | Sequence[int] = slice(-1, None),
    past_key_values: Cache | None = None,
    layout: Layout | None = None,
    chunk_bytes: int = 2**28,
    **inputs: Any,
) -> Any:
    """Run ``model`` on one sequence and pass the attention of the watched queries to ``on_rows``.

    Args:
        model: a causal language model whose attention goes through AttentionInterface. Neither it
            nor its output is changed.
        input_ids: the new tokens, which follow the tokens in ``past_key_values``.
        on_rows: called while the model runs, layer after layer, once for each chunk of a layer's
            queries, in order. Layers without attention (lfm2's convolutions) do not call it.
        watch: the watched tokens, as in ``input_ids[0, watch]``.
        past_key_values: the KV cache, extended in place.
        layout: the places of the tokens, if they are not those of a single text. The keys of a row
            are the cache's entries then, and ``AttentionRows.queries`` are positions in the
            tokens' own texts.
        chunk_bytes: the most bytes that the rows of one call take (one query's rows if these take
            more). Peak memory is about three times this, and one layer's keys in float32.
        inputs: further keywords of the model's forward.

    Raises:
        HeadprobeError: attention does not go through AttentionInterface (bloom, falcon, mpt), or
            has a term that the rows would miss.
        ValueError: more than one sequence, padding under a flash kernel, no token watched, or a
            cache of fixed size.

    One call at a time: two threads would take away each other's wrapper.
    """
    batch, tokens = input_ids.shape
    if batch != 1:
        raise ValueError(f"expected one sequence, got a batch of {batch}")
    past = past_key_values.get_seq_length() if past_key_values is not None else 0
    watched = range(tokens)[watch] if isinstance(watch, slice) else watch
    if not watched:
        raise ValueError(f"expected watch to pick some of {tokens} tokens, got {watch}")
    new = torch.tensor(watched, device=input_ids.device)
    order = _Order(
        on_rows=on_rows,
        implementation=model.config.get_text_config(decoder=True)._attn_implementation,
        new=watched,
        queries=past + new if layout is None else layout.positions[0, new],
        length=past + tokens,
        chunk_bytes=chunk_bytes,
    )
    with patched_attention(model, partial(_attend, order)), _laid_out(model, layout) as places:
        output = model(input_ids, past_key_values=past_key_values, **places, **inputs)
    if not order.reached:
        raise _out_of_reach(model)
    return output


@contextmanager
def patched_attention(model: PreTrainedModel, attend: Callable[..., Any]) -> Iterator[None]:
    """Replace the attention function of ``model`` by ``attend`` inside the ``with`` block.

    It is called as ``attend(original, module, query, key, value, attention_mask, **kwargs)``:
    ``original`` is the function that the model uses, and the rest are the arguments of that
    function. Other models keep their own function. Inside the block only the kernels of
    ``kernels.ALLOWED`` run.

    Raises:
        HeadprobeError: attention does not go through AttentionInterface (bloom, falcon, mpt).

    One thread at a time: two would take away each other's wrapper.
    """
    modules = frozenset(model.modules())
    if not _use_interface(modules):
        raise _out_of_reach(model)

    # A closure, since not every model passes unknown keywords on (stablelm, nemotron).
    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def pass_on(module: Any, *tensors: Any, **attention_kwargs: Any) -> Any:
            if module not in modules:
                return original(module, *tensors, **attention_kwargs)
            return attend(original, module, *tensors, **attention_kwargs)

        return pass_on

    name = model.config.get_text_config(decoder=True)._attn_implementation
    with ExitStack() as wrappers:
        wrappers.enter_context(allowed_kernels(model.device))
        for functions, key in _places(name, modules):
            wrappers.enter_context(replaced(functions, key, wrap))
        yield


def _places(name: str, modules: Iterable[nn.Module]) -> list[tuple[MutableMapping[str, Any], str]]:
    """List the (mapping, key) places in which models look up the attention function ``name``."""
    if name != "eager":
        return [(ALL_ATTENTION_FUNCTIONS, name)]
    # Eager attention is not in the registry: each modelling file has a function of its own.
    return [(vars(file), _EAGER) for file in modelling_files(modules) if hasattr(file, _EAGER)]


@contextmanager
def replaced(
    functions: MutableMapping[str, Any], key: str, wrap: Callable[..., Any]
) -> Iterator[None]:
    """Replace the function ``key`` by what ``wrap`` makes of it, inside the ``with`` block."""
    original = functions[key]
    functions[key] = wrap(original)
    try:
        yield
    finally:
        # This removes the registry's local entry, under which a global one may come to light.
        functions.pop(key)
        if functions.get(key) is not original:
            functions[key] = original


def forward(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "batch token"],
    *,
    past_key_values: Cache,
    layout: Layout | None = None,
    **inputs: Any,
) -> Any:
    """Run ``model`` as ``observe`` does, without observing its attention.

    Args:
        model: a causal language model. Neither it nor its output is changed.
        input_ids: the new tokens, which follow the tokens in ``past_key_values``.
        past_key_values: the KV cache, extended in place.
        layout: the places of the tokens, if they are not those of a single text.
        inputs: further keywords of the model's forward.
    """
    with patched_attention(model, share_heads), _laid_out(model, layout) as places:
        return model(input_ids, past_key_values=past_key_values, **places, **inputs)


@contextmanager
def _laid_out(model: PreTrainedModel, layout: Layout | None) -> Iterator[dict[str, Any]]:
    """Let the model's masks follow a layout; yield the keywords of its forward.

    transformers describes the mask of each kind of layer by a function of two positions. It is
    evaluated at the positions of the layout, so causality, sliding windows and chunks hold within
    each text.
    """
    if layout is None:
        yield {}
        return

    def make(*_: Any, mask_function: Callable[..., Any], dtype: Any = None, **__: Any) -> Tensor:
        zero = layout.positions.new_zeros(())
        seen = mask_function(zero, zero, layout.positions[:, :, None], layout.keys[:, None])
        return _as_bias(layout.visible & seen, dtype or model.dtype)

    name = model.config.get_text_config(decoder=True)._attn_implementation
    with replaced(ALL_MASK_ATTENTION_FUNCTIONS, name, lambda _: make):
        yield {"position_ids": layout.positions}


def _as_bias(
    seen: Bool[Tensor, "sequence query key"], dtype: torch.dtype
) -> Float[Tensor, "sequence 1 query key"]:
    """Turn a mask into numbers that are added to the scores: 0, or -inf where nothing is seen."""
    *rows_of, keys = seen.shape
    # On CUDA, SDPA copies a bias whose rows do not start at multiples of 16 bytes, in every layer.
    rows = torch.zeros(*rows_of, -(-keys // 16) * 16, dtype=dtype, device=seen.device)
    return rows[..., :keys].masked_fill_(~seen, -torch.inf)[:, None]


def makes_masks(model: PreTrainedModel, device: torch.device) -> bool:
    """Tell whether the attention that a model uses is given masks, query by key, that it obeys."""
    made: list[Any] = []

    def keep(original: Callable[..., Any]) -> Callable[..., Any]:
        def make(*arguments: Any, **keywords: Any) -> Any:
            made.append(original(*arguments, **keywords | {"allow_is_causal_skip": False}))
            return made[-1]

        return make

    name = model.config.get_text_config(decoder=True)._attn_implementation
    if name not in ALL_MASK_ATTENTION_FUNCTIONS:
        return False
    with replaced(ALL_MASK_ATTENTION_FUNCTIONS, name, keep):
        model(torch.ones(1, 2, dtype=torch.int64, device=device), use_cache=False)
    return bool(made) and all(isinstance(mask, Tensor) and mask.ndim == 4 for mask in made)


@dataclass(eq=False, kw_only=True)
class _Order:
    """The settings of one observed forward pass.

    ``implementation`` is the name of the model's attention function; ``new`` are the watched ones
    of the new tokens, ``queries`` their positions; ``length`` counts the cached and the new tokens;
    ``chunks`` are what ``split`` has found; ``reached`` is set once a layer has called the
    attention function.
    """

    on_rows: OnRows
    implementation: str
    new: Sequence[int]
    queries: Int[Tensor, " watched"]
    length: int
    chunk_bytes: int
    chunks: dict[tuple[int, torch.device], list[_Chunk]] = field(default_factory=dict)
    reached: bool = False

    def split(self, query_heads: int, device: torch.device) -> list[_Chunk]:
        """Split the watched tokens into chunks whose rows are computed at a time.

        Return the tokens of each chunk, as an index and without a copy where they can be, and
        their positions. Layers of equal heads on one device share the answer.
        """
        known = query_heads, device
        if known not in self.chunks:
            size = max(1, self.chunk_bytes // (4 * query_heads * self.length))
            parts = [self.new[at : at + size] for at in range(0, len(self.new), size)]
            positions = torch.split(self.queries.to(device), size)
            self.chunks[known] = [
                (_index(part, device), at) for part, at in zip(parts, positions, strict=True)
            ]
        return self.chunks[known]


def _index(numbers: Sequence[int], device: torch.device) -> slice | Tensor:
    """Return an index of rising numbers: a slice where none is left out."""
    first, last = numbers[0], numbers[-1]
    if last - first + 1 == len(numbers):
        return slice(first, last + 1)
    return torch.tensor(numbers, device=device)


def _attend(
    order: _Order,
    original: Callable[..., Any],
    module: Any,
    query: Float[Tensor, "1 query_head query head_dim"],
    key: Float[Tensor, "1 kv_head key head_dim"],
    value: Float[Tensor, "1 kv_head key value_dim"],
    attention_mask: Any,
    **attention_kwargs: Any,
) -> Any:
    """Return the attention function's own result, and pass the watched rows to ``on_rows``."""
    output = share_heads(original, module, query, key, value, attention_mask, **attention_kwargs)
    _check(order, query, key, attention_mask, attention_kwargs)
    order.reached = True
    heads = (query[0], key[0], value[0], output[0][0].transpose(0, 1))
    _report(order, module.layer_idx, *heads, attention_mask, attention_kwargs)
    return output


@torch.no_grad()
def _report(
    order: _Order,
    layer: int,
    query: Float[Tensor, "query_head query head_dim"],
    key: Float[Tensor, "kv_head key head_dim"],
    value: Float[Tensor, "kv_head key value_dim"],
    output: Float[Tensor, "query_head query value_dim"],
    mask: Tensor | None,
    attention_kwargs: dict[str, Any],
) -> None:
    """Compute one layer's watched rows and pass them to ``on_rows``, a chunk of queries a call."""
    # The keys end where the queries do; a sliding-window cache has dropped the oldest.
    dropped = order.length - key.shape[1]
    key = key.float()
    # Flash kernels get the sliding window as a number, other kernels get it in the mask.
    sliding_window = (
        attention_kwargs.get("sliding_window") if "flash" in order.implementation else None
    )
    for at, positions in order.split(len(query), query.device):
        if mask is None:
            kept = torch.arange(dropped, order.length, device=query.device)
            seen = causal_mask(positions, kept, sliding_window)
        else:
            seen = mask[0, :, at, : key.shape[1]]
        rows = attention_rows(query[:, at], key, seen, attention_kwargs)
        rows = nn.functional.pad(rows, (dropped, 0)) if dropped else rows
        order.on_rows(
            AttentionRows(
                layer=layer,
                queries=positions,
                weights=rows,
                values=value,
                outputs=output[:, at],
            )
        )


def _check(
    order: _Order, query: Tensor, key: Tensor, mask: Any, attention_kwargs: dict[str, Any]
) -> None:
    """Refuse attention whose rows would come out wrong: unknown terms, padding, a fixed cache."""
    check_attention_kwargs(order.implementation, attention_kwargs)
    if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 4):
        raise ValueError("expected no padding, and a mask of 4 dimensions or none")
    if key.shape[2] > order.length:
        raise ValueError(f"expected at most {order.length} keys, got {key.shape[2]}")


def _use_interface(modules: Iterable[nn.Module]) -> bool:
    """Tell whether some module's modelling file uses transformers' attention registry."""
    return any(hasattr(file, "ALL_ATTENTION_FUNCTIONS") for file in modelling_files(modules))


def modelling_files(modules: Iterable[nn.Module]) -> list[ModuleType]:
    """List the Python modules (files) that define the classes of the modules."""
    return [sys.modules[name] for name in {type(module).__module__ for module in modules}]


def _out_of_reach(model: PreTrainedModel) -> HeadprobeError:
    return HeadprobeError(
        f"cannot reach the attention of a {model.config.model_type!r} model: "
        "it does not go through transformers' AttentionInterface"
    )

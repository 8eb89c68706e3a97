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
from collections.abc import Callable, Iterable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from headprobe.attention.kernels import allowed_kernels
from headprobe.errors import HeadprobeError

# Terms of the scores that the rows would miss: learned biases, sinks that are not one number a
# head (inkling2), and selections that a kernel applies by itself (DeepSeek-V3.2 with FlashMLA).
_UNKNOWN_KWARGS = ("position_bias", "sinks", "indices", "block_indices")
_EAGER = "eager_attention_forward"


@dataclass(frozen=True, eq=False, kw_only=True)
class AttentionRows:
    """Attention probabilities of some watched queries in one layer.

    ``queries`` are token positions, one a row. The keys are the token positions 0, 1, ... up to
    the newest token. Both count from the start of the KV cache. Keys that a query does not see
    hold 0, also keys that a sliding-window cache has dropped. A row sums to 1, or to less
    where the layer has attention sinks.

    ``values`` are the layer's own tensor, not a copy: the values of the newest keys, all but the
    dropped ones. ``outputs`` are the layer's own too: for each watched query the sum of the values,
    weighted by the query's row.
    """

    layer: int
    queries: range
    weights: Float32[Tensor, "query_head query key"]
    values: Float[Tensor, "kv_head kept value_dim"]
    outputs: Float[Tensor, "query_head query value_dim"]


OnRows = Callable[[AttentionRows], None]


def observe(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "batch token"],
    on_rows: OnRows,
    *,
    watch: slice = slice(-1, None),
    past_key_values: Cache | None = None,
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
    watched = range(past, past + tokens)[watch]
    if not watched:
        raise ValueError(f"expected watch to pick some of {tokens} tokens, got {watch}")
    order = _Order(
        on_rows=on_rows,
        implementation=model.config.get_text_config(decoder=True)._attn_implementation,
        watched=watched,
        length=past + tokens,
        chunk_bytes=chunk_bytes,
    )
    with patched_attention(model, partial(_attend, order)):
        output = model(input_ids, past_key_values=past_key_values, **inputs)
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
    **inputs: Any,
) -> Any:
    """Run ``model`` on one sequence as ``observe`` does, without observing its attention.

    Args:
        model: a causal language model. Neither it nor its output is changed.
        input_ids: the new tokens, which follow the tokens in ``past_key_values``.
        past_key_values: the KV cache, extended in place.
        inputs: further keywords of the model's forward.
    """
    with patched_attention(model, share_heads):
        return model(input_ids, past_key_values=past_key_values, **inputs)


@dataclass(eq=False, kw_only=True)
class _Order:
    """The settings of one observed forward pass.

    ``implementation`` is the name of the model's attention function; ``watched`` are token
    positions, ``length`` counts the cached and the new tokens; ``reached`` is set once a layer has
    called the attention function.
    """

    on_rows: OnRows
    implementation: str
    watched: range
    length: int
    chunk_bytes: int
    reached: bool = False


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


def share_heads(
    original: Callable[..., Any],
    module: Any,
    query: Float[Tensor, "batch query_head query head_dim"],
    key: Float[Tensor, "batch kv_head key head_dim"],
    value: Float[Tensor, "batch kv_head key value_dim"],
    attention_mask: Any,
    **attention_kwargs: Any,
) -> Any:
    """Return the attention function's own result without copying the KV cache per query head.

    transformers repeats keys and values for the query heads of a group where SDPA gets a mask. With
    the KV heads as batch the group's query heads read the same memory, and the result is the same.
    """
    batch, heads, queries, _ = query.shape
    kv_heads = key.shape[1]
    if isinstance(attention_mask, Tensor) and attention_mask.ndim == 4:
        # In older releases of transformers some masks have one key more (persimmon, stablelm).
        attention_mask = attention_mask[..., : key.shape[2]]
    alike = isinstance(attention_mask, Tensor) and batch == 1 and attention_mask.shape[1] == 1
    plain = all(attention_kwargs.get(name) is None for name in ("softcap", "position_bias"))
    if original is not sdpa_attention_forward or heads == kv_heads or not (alike and plain):
        return original(module, query, key, value, attention_mask, **attention_kwargs)
    group = heads // kv_heads
    grouped = query[0].reshape(kv_heads, group, queries, -1)
    keys, values = (kept[0].unsqueeze(1).expand(-1, group, -1, -1) for kept in (key, value))
    output = nn.functional.scaled_dot_product_attention(
        grouped, keys, values, attn_mask=attention_mask, scale=attention_kwargs.get("scaling")
    )
    return output.reshape(1, heads, queries, -1).transpose(1, 2).contiguous(), None


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
    query_heads, queries, _ = query.shape
    # The keys end where the queries do; a sliding-window cache has dropped the oldest.
    dropped = order.length - key.shape[1]
    key = key.float()
    # Flash kernels get the sliding window as a number, other kernels get it in the mask.
    sliding_window = (
        attention_kwargs.get("sliding_window") if "flash" in order.implementation else None
    )
    chunk = max(1, order.chunk_bytes // (4 * query_heads * order.length))
    for start in range(0, len(order.watched), chunk):
        positions = order.watched[start : start + chunk]
        at = torch.tensor(positions, device=query.device)
        new = at - (order.length - queries)
        if mask is None:
            seen = _causal(
                at, torch.arange(dropped, order.length, device=at.device), sliding_window
            )
        else:
            seen = mask[0, :, new, : key.shape[1]]
        rows = attention_rows(query[:, new], key, seen, attention_kwargs)
        rows = nn.functional.pad(rows, (dropped, 0)) if dropped else rows
        order.on_rows(
            AttentionRows(
                layer=layer,
                queries=positions,
                weights=rows,
                values=value,
                outputs=output[:, new],
            )
        )


def attention_rows(
    query: Float[Tensor, "query_head query head_dim"],
    key: Float32[Tensor, "kv_head key head_dim"],
    mask: Bool[Tensor, "#query_head query key"] | Float[Tensor, "#query_head query key"],
    attention_kwargs: dict[str, Any],
) -> Float32[Tensor, "query_head query key"]:
    """Compute attention probabilities, softmax(scaling * query key^T), in float32.

    A boolean ``mask`` is true where a query sees a key; a float mask is added to the scores.
    ``attention_kwargs`` are the keywords of the attention function; of these ``scaling``,
    ``softcap`` and ``s_aux`` (an attention sink for each query head) are applied.
    """
    query_heads, queries, head_dim = query.shape
    kv_heads, keys, _ = key.shape
    scaling, softcap, attention_sinks = (
        attention_kwargs.get(name) for name in ("scaling", "softcap", "s_aux")
    )
    grouped = query.float().reshape(kv_heads, -1, head_dim)
    scores = (grouped @ key.mT).view(query_heads, queries, keys)
    scores *= head_dim**-0.5 if scaling is None else scaling
    if softcap is not None:
        scores = scores.div_(softcap).tanh_().mul_(softcap)
    scores = scores.masked_fill_(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    if attention_sinks is None:
        return scores.softmax(dim=-1)
    attention_sink = attention_sinks.float().view(query_heads, 1, 1).expand(-1, queries, -1)
    return torch.cat([scores, attention_sink], dim=-1).softmax(dim=-1)[..., :-1]


def _causal(
    query: Int[Tensor, " query"], key: Int[Tensor, " key"], sliding_window: int | None
) -> Bool[Tensor, "1 query key"]:
    """Mask each query to its own and earlier key positions, within the sliding window if any."""
    distance = query[:, None] - key
    seen = distance >= 0
    return (seen if sliding_window is None else seen & (distance < sliding_window))[None]


def _check(
    order: _Order, query: Tensor, key: Tensor, mask: Any, attention_kwargs: dict[str, Any]
) -> None:
    """Refuse attention whose rows would come out wrong: unknown terms, padding, a fixed cache."""
    check_attention_kwargs(order.implementation, attention_kwargs)
    if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 4):
        raise ValueError("expected no padding, and a mask of 4 dimensions or none")
    if key.shape[2] > order.length:
        raise ValueError(f"expected at most {order.length} keys, got {key.shape[2]}")
    if min(order.watched) < order.length - query.shape[2]:
        raise ValueError(f"expected watch to pick from the last {query.shape[2]} tokens")


def check_attention_kwargs(implementation: str, attention_kwargs: dict[str, Any]) -> None:
    """Refuse attention whose probabilities ``attention_rows`` would compute wrongly.

    Raises:
        HeadprobeError: the scores have an unknown term, or a soft cap that SDPA leaves out.
    """
    unknown = [name for name in _UNKNOWN_KWARGS if attention_kwargs.get(name) is not None]
    if unknown:
        raise HeadprobeError(f"cannot follow attention that depends on {unknown[0]!r}")
    # Newer releases of transformers refuse a soft cap under SDPA; 5.17 leaves the cap out.
    if implementation == "sdpa" and attention_kwargs.get("softcap") is not None:
        raise HeadprobeError(
            "SDPA has no soft cap: load the model with attn_implementation='eager'"
        )


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

"""What selections score, by their plain formulas: float64, loops over heads and entries."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headprobe.attention.observe import patched_attention


@dataclass
class Layer:
    """One layer's part of a forward pass over a whole text, in float64.

    Queries and keys are ``[head, token, head_dim]``, rotated, ``before`` and
    ``before_key`` as they were before; ``visible`` is ``[query, key]``.
    """

    before: Tensor
    before_key: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    visible: Tensor
    output: Tensor
    attention_kwargs: dict[str, Any] = field(default_factory=dict)
    theta: float = 10000.0

    @property
    def group(self) -> int:
        return len(self.query) // len(self.key)

    @property
    def entries(self) -> list[int]:
        """The tokens that the newest query sees: what a compression could leave."""
        return self.visible[-1].nonzero().flatten().tolist()

    @property
    def scaling(self) -> float:
        given = self.attention_kwargs.get("scaling")
        return self.query.shape[-1] ** -0.5 if given is None else float(given)

    def softmax(self, head: int, at: int, keys: list[int]) -> dict[int, float]:
        """One query's attention among some keys, as far as it sees them."""
        cap, logits = self.attention_kwargs.get("softcap"), {}
        for k in keys:
            if self.visible[at, k]:
                logit = self.scaling * float(self.query[head, at] @ self.key[head // self.group, k])
                logits[k] = logit if cap is None else cap * math.tanh(logit / cap)
        total = sum(math.exp(logit) for logit in logits.values())
        return {k: math.exp(logits[k]) / total if k in logits else 0.0 for k in keys}


@torch.no_grad()
def read(model: PreTrainedModel, ids: Tensor) -> list[Layer]:
    """Run a text in one forward pass, and take down every layer."""
    layers: dict[int, Layer] = {}
    before: dict[tuple[str, int], Tensor] = {}

    def attend(
        original: Any, module: Any, query: Tensor, key: Tensor, *rest: Any, **kw: Any
    ) -> Any:
        value, mask = rest[:2]
        tokens = query.shape[2]
        visible = torch.ones(tokens, tokens, dtype=torch.bool).tril()
        if mask is not None:
            seen = mask[0, 0] if mask.dtype == torch.bool else mask[0, 0] == 0
            visible = visible & seen
        layers[module.layer_idx] = Layer(
            before=before["q", module.layer_idx],
            before_key=before["k", module.layer_idx],
            query=query[0].double(),
            key=key[0].double(),
            value=value[0].double(),
            visible=visible,
            output=module.o_proj.weight.double(),
            attention_kwargs=kw,
            theta=_theta(model, module.layer_idx),
        )
        return original(module, query, key, *rest, **kw)

    with _queries(model, before), patched_attention(model, attend):
        model(ids, use_cache=False)
    return [layers[index] for index in sorted(layers)]


@contextmanager
def _queries(model: PreTrainedModel, before: dict[tuple[str, int], Tensor]) -> Iterator[None]:
    """Hooks on q_proj and k_proj, or on q_norm and k_norm where there are such."""
    with ExitStack() as hooks:
        for index, layer in enumerate(model.model.layers):
            attention = layer.self_attn
            for name in ("q", "k"):
                part = getattr(attention, f"{name}_norm", getattr(attention, f"{name}_proj"))
                keep = partial(_keep, before, (name, index), attention.head_dim)
                hooks.callback(part.register_forward_hook(keep).remove)
        yield


def _keep(
    before: dict[tuple[str, int], Tensor],
    place: tuple[str, int],
    head_dim: int,
    _: Any,
    __: Any,
    output: Tensor,
) -> None:
    own = output[0].double().clone()
    before[place] = own if own.ndim == 3 else own.unflatten(1, (-1, head_dim)).transpose(0, 1)


def _theta(model: PreTrainedModel, layer: int) -> float:
    parameters = model.config.rope_parameters
    # transformers 5.0 sets an empty one beside those of the kinds of layers.
    if parameters.get("rope_theta") is None:
        parameters = parameters[model.config.layer_types[layer]]
    return float(parameters["rope_theta"])


def window_attention(layer: Layer, head: int, window: int) -> list[dict[int, float]]:
    """The attention of the newest queries, one after the other."""
    tokens = layer.query.shape[1]
    return [layer.softmax(head, at, layer.entries) for at in range(tokens - window, tokens)]


def heads_of(layer: Layer, kv_head: int) -> range:
    return range(kv_head * layer.group, (kv_head + 1) * layer.group)


def mean_attention(layer: Layer, kv_head: int, window: int) -> list[float]:
    """The mean over the newest queries and over the group, of every token."""
    total = [0.0] * layer.query.shape[1]
    for head in heads_of(layer, kv_head):
        for row in window_attention(layer, head, window):
            for k, weight in row.items():
                total[k] += weight / window / layer.group
    return total


def largest_attention(layer: Layer, kv_head: int, window: int) -> list[float]:
    rows = [row for h in heads_of(layer, kv_head) for row in window_attention(layer, h, window)]
    return [max(row.get(k, 0.0) for row in rows) for k in range(layer.query.shape[1])]


def output_norm(layer: Layer, kv_head: int, key: int) -> float:
    """|W_O v|_1, the mean over the group."""
    width = layer.value.shape[-1]
    columns = [layer.output[:, h * width : (h + 1) * width] for h in heads_of(layer, kv_head)]
    norms = [float((own @ layer.value[kv_head, key]).abs().sum()) for own in columns]
    return sum(norms) / len(norms)


def rotation(layer: Layer, position: int) -> Tensor:
    """The matrix that rotates a query: pairs (i, i + d/2) by position * theta ** (-2 i / d)."""
    width = layer.query.shape[-1]
    matrix = torch.zeros(width, width, dtype=torch.float64)
    for i in range(width // 2):
        angle, j = position * layer.theta ** (-2 * i / width), i + width // 2
        matrix[i, i] = matrix[j, j] = math.cos(angle)
        matrix[j, i], matrix[i, j] = math.sin(angle), -math.sin(angle)
    return matrix


def expected_attention(
    layer: Layer, kv_head: int, entries: list[int], *, ahead: int, sinks: int
) -> dict[int, float]:
    """E exp(s q k) of a normal q, normalised, the mean over the group, times |v|."""
    tokens = layer.query.shape[1]
    turn = sum(rotation(layer, tokens + p) for p in range(ahead)) / ahead
    later = [k for k in entries if k >= sinks]
    scores = dict.fromkeys(later, 0.0)
    for head in heads_of(layer, kv_head):
        queries = [turn @ layer.before[head, t] for t in range(sinks, tokens)]
        mean = sum(queries) / len(queries)
        covariance = sum(torch.outer(q - mean, q - mean) for q in queries) / len(queries)
        expectations = {}
        for k in later:
            own = layer.scaling * layer.key[kv_head, k]
            expectations[k] = math.exp(float(own @ mean + own @ covariance @ own / 2))
        total = sum(expectations.values())
        for k in later:
            length = float(layer.value[kv_head, k].norm())
            scores[k] += expectations[k] / total / layer.group * length
    return scores


def largest_of_repetition(
    layer: Layer, head: int, context: int, start: int, stop: int, *, sinks: int
) -> list[float]:
    """The largest attention of the tokens after the context to each token of the piece."""
    tokens, first = layer.query.shape[1], [*range(min(sinks, start))]
    keys = [*first, *range(start, stop), *range(context, tokens)]
    rows = [layer.softmax(head, at, keys) for at in range(context, tokens)]
    return [max(row[k] for row in rows) for k in range(start, stop)]

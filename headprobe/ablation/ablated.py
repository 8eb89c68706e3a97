"""Ablate heads: replace what they put out by zero or by its mean, in every forward pass.

An output is replaced where the attention function hands it over, before the layer's output
projection, for every token: while the prompt is read and while the answer is given.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float64, Int
from torch import Tensor
from transformers import PreTrainedModel

from headprobe.attention.kernels import share_heads
from headprobe.attention.observe import patched_attention
from headprobe.attention.prefix_cache import read_through
from headprobe.models.config import head_layout
from headprobe.models.layout import Head
from headprobe.models.loading import attention_layers

MeanOutputs = Mapping[int, Float64[Tensor, "query_head value_dim"]]


@contextmanager
def ablated(
    model: PreTrainedModel, *groups: Collection[Head], means: MeanOutputs | None = None
) -> Iterator[None]:
    """Run ``model`` inside the block without the outputs of some query heads, (layer, head).

    Of several groups of heads each is ablated in its own sequence of a batch, a single one in all
    sequences. Without ``means`` an output is replaced by zero, else by the head's mean of
    ``mean_outputs``. The model itself is not changed, and is as before when the block ends,
    whatever ends it.

    Raises:
        ValueError: the model has no such head.
        HeadprobeError: attention does not go through AttentionInterface (bloom, falcon, mpt).
    """
    heard = _heard(model, groups)

    def attend(
        original: Callable[..., Any], module: Any, *tensors: Any, **attention_kwargs: Any
    ) -> Any:
        output, rows = share_heads(original, module, *tensors, **attention_kwargs)
        layer = module.layer_idx
        if layer in heard:
            instead = 0.0 if means is None else means[layer].to(output)
            output = torch.where(heard[layer].to(output.device), output, instead)
        return output, rows

    with patched_attention(model, attend):
        yield


@torch.no_grad()
def mean_outputs(
    model: PreTrainedModel, prompts: Iterable[Sequence[int]], *, prefill_chunk: int = 2048
) -> MeanOutputs:
    """Average what every head of every layer puts out over all tokens of some prompts.

    ``prefill_chunk`` is the number of tokens that a forward pass reads.
    """
    totals: dict[int, Float64[Tensor, "query_head value_dim"]] = {}
    tokens = 0

    def attend(
        original: Callable[..., Any], module: Any, *tensors: Any, **attention_kwargs: Any
    ) -> Any:
        output, rows = share_heads(original, module, *tensors, **attention_kwargs)
        total = output.float().sum(dim=(0, 1)).cpu().double()
        totals[module.layer_idx] = totals.get(module.layer_idx, 0) + total
        return output, rows

    def run(ids: Int[Tensor, "1 token"], **inputs: Any) -> None:
        with patched_attention(model, attend):
            model(ids, **inputs)

    for prompt in prompts:
        ids = torch.tensor([prompt], device=model.device)
        read_through(model, ids, prefill_chunk=prefill_chunk, run=run)
        tokens += len(prompt)
    return {layer: total / tokens for layer, total in totals.items()}


def _heard(
    model: PreTrainedModel, groups: Sequence[Collection[Head]]
) -> dict[int, Bool[Tensor, "group 1 query_head 1"]]:
    """Mark, for each layer with ablated heads, the heads that each group does not ablate."""
    count = head_layout(model.config, id=model.config.model_type).num_heads
    layers = attention_layers(model)
    heard: dict[int, Bool[Tensor, "group 1 query_head 1"]] = {}
    for group, (layer, head) in [(n, head) for n, heads in enumerate(groups) for head in heads]:
        if layer not in layers or not 0 <= head < count:
            raise ValueError(
                f"expected heads 0 to {count - 1} of layers {', '.join(map(str, layers))}, "
                f"got {layer}-{head}"
            )
        every = torch.ones(len(groups), 1, count, 1, dtype=torch.bool)
        heard.setdefault(layer, every)[group, 0, head] = False
    return heard

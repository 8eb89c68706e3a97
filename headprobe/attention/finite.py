"""Numbers that are none: where a model's overflow, or its weights are damaged.

What a head attends to means nothing once a layer puts out NaN or infinity; the answers that follow
look like answers all the same. One look at the logits of a forward pass finds it, for attention
carries it to every later position. Only then is the prompt read again, to name the layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from headprobe.errors import HeadprobeError
from headprobe.models.loading import LoadedModel, attention_modules

_PIECE = 1024
_OTHER = {"float16": "bfloat16", "bfloat16": "float32"}


class NotFinite(Exception):
    """Some number is NaN or infinite; ``not_finite`` words it."""


def require_finite_logits(logits: Float[Tensor, "*batch token"]) -> None:
    """Look through the logits of a forward pass; tokens that are masked with -inf may be.

    Raises:
        NotFinite: the largest of some position is NaN or infinite.
    """
    if not torch.isfinite(logits.amax(dim=-1)).all():
        raise NotFinite


def require_finite_scores(scores: Float[np.ndarray, "layer query_head"]) -> None:
    """Look through one measure of a case.

    Raises:
        NotFinite: some score is NaN or infinite.
    """
    if not np.isfinite(scores).all():
        raise NotFinite


def check_weights(loaded: LoadedModel) -> None:
    """Refuse a model with weights that are NaN or infinite.

    Raises:
        HeadprobeError: it has some.
    """
    damage = _damage(loaded)
    if damage is not None:
        raise damage


def not_finite(loaded: LoadedModel, prompt: Sequence[int]) -> HeadprobeError:
    """The error that names the first layer whose weights or output are not finite.

    ``prompt`` is what the model had read; it is read again, without cache and rows.
    """
    damaged = _damage(loaded)
    if damaged is not None:
        return damaged
    where = first_broken_layer(loaded, prompt)
    other = _OTHER.get(loaded.dtype)
    advice = f"try `dtype={other}`" if other else "the weights may be damaged: download them again"
    place = f"the output of {where}" if where else "what the model computes"
    return HeadprobeError(f"{loaded.layout.id}: {place} is not finite in {loaded.dtype}; {advice}")


class _Found(Exception):
    """Ends a forward pass at the first output that is not finite."""


@torch.inference_mode()
def first_broken_layer(loaded: LoadedModel, prompt: Sequence[int]) -> str | None:
    """The first part of a model whose output on a prompt is not finite, such as ``layer 3``.

    Returns:
        ``None`` where all are finite when the model reads the prompt by itself, or where there is
        no memory for that.
    """
    model = loaded.model

    def watch(name: str) -> Any:
        def look(module: nn.Module, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, Tensor) and not torch.isfinite(first).all():
                raise _Found(name)

        return look

    cache = DynamicCache(config=model.config)
    with ExitStack() as hooks:
        for name, module in _parts(model):
            handle = module.register_forward_hook(watch(name))
            hooks.callback(handle.remove)
        try:
            tokens = torch.tensor([prompt], device=loaded.device)
            for piece in torch.split(tokens, _PIECE, dim=1):
                model(piece, past_key_values=cache, use_cache=True, logits_to_keep=1)
        except _Found as found:
            return str(found)
        except torch.OutOfMemoryError:
            return None
    return None


def _parts(model: PreTrainedModel) -> Iterator[tuple[str, nn.Module]]:
    """The embedding, the layers and the head of a model, with what to call them."""
    yield "the embedding", model.get_input_embeddings()
    inner = set(attention_modules(model).values())
    for stack in model.modules():
        if isinstance(stack, nn.ModuleList) and inner & set(stack.modules()):
            yield from ((f"layer {number}", layer) for number, layer in enumerate(stack))
            break
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    if head is not None:
        yield "the last layer", head


def _damage(loaded: LoadedModel) -> HeadprobeError | None:
    """The error that names the first weight that is not finite, if there is one."""
    for name, weight in loaded.model.named_parameters():
        if not weight.is_meta and weight.is_floating_point() and not torch.isfinite(weight).all():
            other = _OTHER.get(loaded.dtype) if loaded.dtype == "float16" else None
            advice = f"try `dtype={other}`, or download" if other else "download"
            return HeadprobeError(
                f"{loaded.layout.id}: the weight {name} is not finite in {loaded.dtype}; {advice} "
                "or copy it again"
            )
    return None

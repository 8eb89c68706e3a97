"""Detect NaN and infinity, from overflow or damaged weights, and name the layer they start in.

Once a layer puts out NaN or infinity, attention means nothing, though the answers that follow still
look like answers. A check of the logits of a forward pass finds it, because attention carries it
to every later position. Only then is the prompt read again, to name the layer.
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
    """A logit or score is NaN or infinite; ``not_finite`` makes the error that users see."""


def require_finite_logits(logits: Float[Tensor, "*batch token"]) -> None:
    """Check that the largest logit of every position is finite; single logits may be -inf (masked).

    Raises:
        NotFinite: the largest logit of some position is NaN or infinite.
    """
    if not torch.isfinite(logits.amax(dim=-1)).all():
        raise NotFinite


def require_finite_scores(scores: Float[np.ndarray, "layer query_head"]) -> None:
    """Check that all scores of one measure on one case are finite.

    Raises:
        NotFinite: some score is NaN or infinite.
    """
    if not np.isfinite(scores).all():
        raise NotFinite


def check_weights(loaded: LoadedModel) -> None:
    """Refuse a model with weights that are NaN or infinite.

    Raises:
        HeadprobeError: the model has such a weight.
    """
    damage = _damage(loaded)
    if damage is not None:
        raise damage


def not_finite(loaded: LoadedModel, prompt: Sequence[int]) -> HeadprobeError:
    """Make the error that names the first layer whose weights or output are not finite.

    The model reads ``prompt`` again, without observing attention, to find that layer.
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
    """Raised to end a forward pass at the first output that is not finite; holds the layer."""


@torch.inference_mode()
def first_broken_layer(loaded: LoadedModel, prompt: Sequence[int]) -> str | None:
    """Find the first part of a model whose output on a prompt is not finite.

    Returns:
        The name of the part, such as ``layer 3``; ``None`` where all outputs are finite when the
        prompt is read alone, or where there is no memory to read it again.
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
    """Yield a model's embedding, its layers and its output head, each with its name."""
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
    """Make the error that names the first weight that is not finite, if there is one."""
    for name, weight in loaded.model.named_parameters():
        if not weight.is_meta and weight.is_floating_point() and not torch.isfinite(weight).all():
            other = _OTHER.get(loaded.dtype) if loaded.dtype == "float16" else None
            advice = f"try `dtype={other}`, or download" if other else "download"
            return HeadprobeError(
                f"{loaded.layout.id}: the weight {name} is not finite in {loaded.dtype}; {advice} "
                "or copy it again"
            )
    return None

"""Detect NaN, infinity and numbers without meaning, and name the layer they start in.

Once a layer puts out NaN or infinity, attention means nothing, though the answers that follow still
look like answers. A check of the logits of a forward pass finds it, because attention carries it
to every later position. Only then is the prompt read again, to name the layer.

Numbers that are finite and huge, as of a weight with a flipped exponent, pass unseen: a norm whose
squares overflow puts out zeros, a softmax of huge scores a single one. ``check_model`` looks for
them in the first tokens that a run reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from headprobe.attention.observe import patched_attention
from headprobe.errors import HeadprobeError
from headprobe.models.loading import LoadedModel, attention_modules
from headprobe.models.logits import last_position

_PIECE, _FIRST = 1024, 64
# Next to it float32 loses what is below 2**16: the layers that follow write nothing.
_LARGEST = 2.0**40
# From here on neighbours in float32 differ by 1 and more, so rounding decides the softmax.
_LARGEST_SCORE = 2.0**24
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


@torch.inference_mode()
def check_model(loaded: LoadedModel, prompt: Sequence[int]) -> None:
    """Let a model read the first tokens of a prompt, and refuse numbers that mean nothing.

    Raises:
        HeadprobeError: an output of a layer is not finite or above 2**40, or attention scores may
            reach above 2**24; or attention cannot be reached.
    """
    model = loaded.model
    names = {module: f"layer {number}" for number, module in attention_modules(model).items()}

    def attend(
        original: Any, module: Any, query: Tensor, key: Tensor, *others: Any, **how: Any
    ) -> Any:
        head_dim = query.shape[-1]
        scaling = how.get("scaling") or head_dim**-0.5
        # A bound: that of head_dim products, each of the largest numbers.
        size = float(query.abs().amax()) * float(key.abs().amax()) * head_dim * scaling
        if size > _LARGEST_SCORE:
            raise _Found(f"attention in {names.get(module, 'a layer')}", size)
        return original(module, query, key, *others, **how)

    def look(name: str, output: Tensor) -> None:
        size = float(output.abs().amax())
        if not size <= _LARGEST:
            raise _Found(f"the output of {name}", size)

    tokens = torch.tensor([prompt[:_FIRST]], device=loaded.device)
    try:
        with patched_attention(model, attend), _outputs_seen(model, look):
            model(tokens, use_cache=False)
    except _Found as found:
        if not math.isfinite(found.size):
            raise _not_finite(loaded, found.place) from None
        raise _too_large(loaded, found) from None


def not_finite(loaded: LoadedModel, prompt: Sequence[int]) -> HeadprobeError:
    """Make the error that names the first layer whose weights or output are not finite.

    The model reads ``prompt`` again, without observing attention, to find that layer.
    """
    where = first_broken_layer(loaded, prompt)
    return _not_finite(loaded, f"the output of {where}" if where else "what the model computes")


def _not_finite(loaded: LoadedModel, place: str) -> HeadprobeError:
    damaged = _damage(loaded)
    if damaged is not None:
        return damaged
    other = _OTHER.get(loaded.dtype)
    advice = f"try `dtype={other}`" if other else "the weights may be damaged: download them again"
    return HeadprobeError(f"{loaded.layout.id}: {place} is not finite in {loaded.dtype}; {advice}")


def _too_large(loaded: LoadedModel, found: _Found) -> HeadprobeError:
    """Make the error that names a layer with huge numbers, and its largest weight."""
    sizes = {
        name: float(weight.abs().amax())
        for name, weight in loaded.model.named_parameters()
        if not weight.is_meta and weight.is_floating_point()
    }
    largest = max(sizes, key=sizes.__getitem__)
    return HeadprobeError(
        f"{loaded.layout.id}: {found.place} reaches {found.size:.0e}, where numbers mean nothing; "
        f"its largest weight is {largest} with {sizes[largest]:.0e}: the weights may be damaged or "
        "scaled wrongly, download or convert them again"
    )


class _Found(Exception):
    """Raised to end a forward pass at the first ``place`` with numbers of too large a ``size``."""

    def __init__(self, place: str, size: float) -> None:
        super().__init__(place)
        self.place, self.size = place, size


@torch.inference_mode()
def first_broken_layer(loaded: LoadedModel, prompt: Sequence[int]) -> str | None:
    """Find the first part of a model whose output on a prompt is not finite.

    Returns:
        The name of the part, such as ``layer 3``; ``None`` where all outputs are finite when the
        prompt is read alone, or where there is no memory to read it again.
    """
    model = loaded.model
    cache = DynamicCache(config=model.config)

    def look(name: str, output: Tensor) -> None:
        if not torch.isfinite(output).all():
            raise _Found(name, math.inf)

    try:
        with _outputs_seen(model, look):
            tokens = torch.tensor([prompt], device=loaded.device)
            for piece in torch.split(tokens, _PIECE, dim=1):
                model(
                    piece,
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=last_position(piece),
                )
    except _Found as found:
        return found.place
    except torch.OutOfMemoryError:
        return None
    return None


@contextmanager
def _outputs_seen(model: PreTrainedModel, look: Callable[[str, Tensor], None]) -> Iterator[None]:
    """Call ``look`` with the name and the output of each part of a model, inside the block."""

    def watch(name: str) -> Any:
        def pass_on(module: nn.Module, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, Tensor):
                look(name, first)

        return pass_on

    with ExitStack() as hooks:
        for name, module in _parts(model):
            hooks.callback(module.register_forward_hook(watch(name)).remove)
        yield


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

"""KVzip's head score (arXiv 2505.23416): what the repetition of a text needs of each head.

The model repeats a text (``compression.reconstruction``). A head scores the largest attention that
any repeated token pays to any entry, or the mean over entries of the largest; a KV head scores the
maximum of its group, as in the files of the authors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float, Float32, Int
from torch import Tensor

from headprobe.compression.reconstruction import can_repeat, repeat_context, repetitions
from headprobe.errors import UsageError
from headprobe.measures._text import TextMeasure, by_layer, read_text

if TYPE_CHECKING:
    from headprobe.models.loading import LoadedModel

SINKS = 4
"""First tokens, which are attended to whatever is repeated, and are not scored."""


def read(
    loaded: LoadedModel, ids: Int[Tensor, "1 token"], prefill_chunk: int
) -> Float[Tensor, "layer query_head"]:
    """Return the maximum over the entries of the largest attention that a repetition pays."""
    found = _largest(loaded, ids, prefill_chunk)
    return by_layer(loaded, {layer: own.amax(dim=1) for layer, own in found.items()})


def read_mean(
    loaded: LoadedModel, ids: Int[Tensor, "1 token"], prefill_chunk: int
) -> Float[Tensor, "layer query_head"]:
    """Return the mean over the entries of the largest attention that a repetition pays."""
    found = _largest(loaded, ids, prefill_chunk)
    return by_layer(loaded, {layer: own.mean(dim=1) for layer, own in found.items()})


def _largest(
    loaded: LoadedModel, ids: Int[Tensor, "1 token"], prefill_chunk: int
) -> dict[int, Float32[Tensor, "query_head entry"]]:
    text, limit = ids[0].tolist(), loaded.max_context
    if not can_repeat(len(text), loaded.tokenizer, max_context=limit):
        message = f"a text of {len(text)} tokens cannot be repeated in a context of {limit}"
        raise UsageError(message, option="lengths", value=len(text))
    cache = read_text(loaded, ids, prefill_chunk)
    written = repetitions(text, loaded.tokenizer, start=SINKS, max_context=limit)
    found = repeat_context(loaded.model, cache, written)
    return {layer: largest[:, SINKS:] for layer, largest in found.items()}


MEASURE = TextMeasure(
    summary="the largest attention of a text's repetition to any entry (KVzip)", read=read
)
MEAN = TextMeasure(
    summary="the mean over entries of the largest attention of a repetition (KVzip)",
    read=read_mean,
)

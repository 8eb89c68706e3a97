"""The record of a measure of natural text, and how a text is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headprobe.attention.observe import OnRows, forward, observe
from headprobe.attention.prefix_cache import PrefixCache, read_through

if TYPE_CHECKING:
    from headprobe.models.loading import LoadedModel

_ROW_BYTES = 2**26


@dataclass(frozen=True, eq=False, kw_only=True)
class TextMeasure:
    """A measure that is computed from one text, by itself.

    ``summary`` is one line for ``headprobe list measures``. ``read`` gets the model, the text's
    tokens ``[1, token]`` and the number of tokens of a forward pass, and returns a score of every
    query head, ``[layer, query_head]``.
    """

    summary: str
    read: Callable[[LoadedModel, Tensor, int], Tensor]


def read_text(
    loaded: LoadedModel,
    ids: Int[Tensor, "1 token"],
    prefill_chunk: int,
    on_rows: OnRows | None = None,
    *,
    start: int = 0,
) -> PrefixCache:
    """Read a text, and pass on the attention rows of its tokens from ``start`` on.

    Args:
        loaded: the model.
        ids: the text.
        prefill_chunk: the number of tokens that a forward pass reads.
        on_rows: called with the rows, as by ``observe``; ``None`` observes nothing.
        start: the first observed token.

    Returns:
        The cache of the whole text.
    """

    def run(piece: Tensor, *, past_key_values: PrefixCache, **inputs: Any) -> None:
        held = past_key_values.get_seq_length() + piece.shape[1]
        watched = min(held - start, piece.shape[1])
        pass_on: Callable[..., Any] = forward
        if on_rows is not None and watched > 0:
            watch = slice(-watched, None)
            pass_on = partial(observe, on_rows=on_rows, watch=watch, chunk_bytes=_ROW_BYTES)
        pass_on(loaded.model, piece, past_key_values=past_key_values, **inputs)

    return read_through(loaded.model, ids, prefill_chunk=prefill_chunk, run=run)


def by_layer(
    loaded: LoadedModel, found: Mapping[int, Float[Tensor, " query_head"]]
) -> Float[Tensor, "layer query_head"]:
    """Stack the scores of layers; layers without attention score 0."""
    layout = loaded.layout
    scores = torch.zeros(layout.layers, layout.num_heads, dtype=torch.float64)
    for layer, own in found.items():
        scores[layer] = own.double().cpu()
    return scores

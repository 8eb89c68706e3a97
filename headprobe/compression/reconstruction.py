"""Let a model repeat its context, and see which entries it looks at (KVzip, arXiv 2505.23416).

The context is repeated piece by piece: an instruction follows the context, then the piece itself,
as if the model had written it. An entry of the piece scores the largest attention that any of these
tokens pays to it, among the first tokens of the context, the piece and the repetition itself, as in
the authors' code. The context's own cache is read, not changed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

from headprobe.attention.kernels import share_heads
from headprobe.attention.observe import patched_attention
from headprobe.attention.rows import attention_rows, check_attention_kwargs
from headprobe.compression.masks import check_mask, seen
from headprobe.models.logits import last_position
from headprobe.prompts.template import chat_affixes
from headprobe.prompts.tokenize import PieceTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PIECE = 2048
"""Tokens of a piece at most, as in the authors' code."""
LEAST_PIECE = 64
_SINKS = 4
_LEAD = 8
"""Tokens before a piece that the instruction quotes."""
_FIRST = "\n\nRepeat the previous context exactly."
_OTHERS = "\n\nRepeat the part of the previous context exactly, starting with"
_ROW_BYTES, _CPU_ROW_BYTES = 2**28, 2**23
"""Bytes of rows in one go; a CPU takes half as long, measured, where they stay in its caches."""


@dataclass(frozen=True, kw_only=True)
class Repetition:
    """The tokens that follow a context to repeat its tokens ``start`` to ``stop``."""

    ids: tuple[int, ...]
    start: int
    stop: int


def repetitions(
    context: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    *,
    start: int = 0,
    max_context: int | None = None,
) -> list[Repetition]:
    """Write the repetitions of a context, in pieces of ``PIECE`` tokens.

    Pieces are shorter where the model's context leaves less room, but no shorter than
    ``LEAST_PIECE``.

    Args:
        context: the tokens of the context.
        tokenizer: the model's; its chat template, if any, puts the instruction in the user's turn.
        start: the tokens that are not repeated: a chat template's, or repeated before.
        max_context: the most tokens that the model takes, if that is known.
    """
    first, others, opening = _instructions(tokenizer)
    size = max(LEAST_PIECE, min(PIECE, _room(len(context), tokenizer, max_context)))
    written = []
    for at in range(start, len(context), size):
        piece = context[at : at + size]
        asked = first if at < _LEAD else [*others, *context[at - _LEAD : at]]
        ids = (*asked, *opening, *piece)
        written.append(Repetition(ids=ids, start=at, stop=at + len(piece)))
    return written


def can_repeat(tokens: int, tokenizer: PreTrainedTokenizerBase, *, max_context: int | None) -> bool:
    """Tell whether the model's context leaves room to repeat a context of so many tokens."""
    return _room(tokens, tokenizer, max_context) >= LEAST_PIECE


def _room(tokens: int, tokenizer: PreTrainedTokenizerBase, max_context: int | None) -> int:
    """Return the tokens of the longest piece that fits in after a context."""
    if max_context is None:
        return PIECE
    first, others, opening = _instructions(tokenizer)
    return max_context - tokens - max(len(first), len(others) + _LEAD) - len(opening)


def _instructions(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int], list[int]]:
    """Return the instructions for the first and for other pieces, and what opens the answer."""
    pieces = PieceTokenizer(tokenizer)
    turn = chat_affixes(tokenizer).after if tokenizer.chat_template else "\n"
    opening = pieces.encode_template(turn, inside=True)
    return pieces.encode(_FIRST), pieces.encode(_OTHERS), opening


@torch.no_grad()
def repeat_context(
    model: PreTrainedModel, context: Cache, repetitions: Sequence[Repetition]
) -> dict[int, Float32[Tensor, "query_head token"]]:
    """Run the repetitions after a context, and return the largest attention to every token of it.

    Tokens that are not repeated get 0. Layers without attention are left out.

    Args:
        model: the model.
        context: the cache of one sequence, whole; it stays as it is.
        repetitions: what to run.
    """
    tokens = context.get_seq_length()
    found: dict[int, Tensor] = {}
    for repetition in repetitions:
        layers = [
            _BorrowedLayer(layer) if isinstance(layer, DynamicLayer) else copy.deepcopy(layer)
            for layer in context.layers
        ]
        implementation = str(model.config.get_text_config(decoder=True)._attn_implementation)
        attend = partial(_attend, found, repetition, tokens, implementation)
        ids = torch.tensor([repetition.ids], device=model.device)
        with patched_attention(model, attend):
            model(
                ids,
                past_key_values=Cache(layers=layers),
                use_cache=True,
                logits_to_keep=last_position(ids),
            )
    return found


class _BorrowedLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Hands out another layer's keys and values before the new ones, and keeps nothing."""

    def __init__(self, layer: DynamicLayer) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._layer = layer
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the other layer's keys and values, and the new ones after them."""
        held = self._layer.keys, self._layer.values
        new = key_states, value_states
        keys, values = (
            torch.cat([old, states], dim=2)
            for old, states in zip(held, new, strict=True)
            if old is not None
        )
        return keys, values

    def get_seq_length(self) -> int:
        """Return the number of tokens of the other layer."""
        return self._layer.get_seq_length()


def _attend(
    found: dict[int, Tensor],
    repetition: Repetition,
    tokens: int,
    implementation: str,
    original: Callable[..., Any],
    module: Any,
    query: Float[Tensor, "1 query_head query head_dim"],
    key: Float[Tensor, "1 kv_head key head_dim"],
    value: Float[Tensor, "1 kv_head key value_dim"],
    attention_mask: Any,
    **attention_kwargs: Any,
) -> Any:
    """Return the attention function's own result; take down the largest attention to the piece."""
    check_attention_kwargs(implementation, attention_kwargs)
    check_mask(attention_mask)
    if module.layer_idx not in found:
        found[module.layer_idx] = torch.zeros(query.shape[1], tokens, device=query.device)
    own = slice(repetition.start, repetition.stop)
    found[module.layer_idx][:, own] = _largest(
        query[0], key[0], attention_mask, repetition, tokens, attention_kwargs
    )
    return share_heads(original, module, query, key, value, attention_mask, **attention_kwargs)


def _largest(
    query: Float[Tensor, "query_head query head_dim"],
    key: Float[Tensor, "kv_head key head_dim"],
    mask: Tensor | None,
    repetition: Repetition,
    tokens: int,
    attention_kwargs: dict[str, Any],
) -> Float32[Tensor, "query_head token"]:
    """Compute the largest attention to a piece, among first tokens, piece and repetition."""
    heads, queries, _ = query.shape
    column = torch.arange(key.shape[1], device=key.device)
    sinks = min(_SINKS, repetition.start)
    looked_at = torch.cat(
        [column[:sinks], column[repetition.start : repetition.stop], column[tokens:]]
    )
    keys = key[:, looked_at].float()
    at = range(tokens, tokens + queries)
    visible = seen(mask, looked_at[None].int(), at, attention_kwargs)
    piece = slice(sinks, len(looked_at) - queries)
    largest = torch.zeros(heads, repetition.stop - repetition.start, device=key.device)
    row_bytes = _CPU_ROW_BYTES if key.device.type == "cpu" else _ROW_BYTES
    step = max(1, row_bytes // (4 * heads * len(looked_at)))
    for start in range(0, queries, step):
        part = slice(start, start + step)
        rows = attention_rows(query[:, part], keys, visible[:, part], attention_kwargs)
        largest = torch.maximum(largest, rows[..., piece].amax(dim=1))
    return largest

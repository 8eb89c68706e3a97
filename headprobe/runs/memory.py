"""How much is run at a time, and how much memory that takes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from headprobe.errors import UsageError
from headprobe.models.layout import HeadLayout

_UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "ki": 2**10, "mi": 2**20, "gi": 2**30}

LEAST_CHUNK, MOST_CHUNK = 32, 8192
# Shares of the allowance: what a forward pass holds beside the KV cache, and the observed rows,
# whose peak is about three times the rows handed over at a time.
_ACTIVATIONS, _ROWS = 0.5, 0.125


@dataclass(frozen=True, kw_only=True)
class MemoryOptions:
    """How much memory a run may take beside the weights and one KV cache.

    ``activation_memory`` is in bytes; ``prefill_chunk``, the tokens that a forward pass reads, is
    what that allows if it is left out.
    """

    prefill_chunk: int | None = None
    activation_memory: int = 2**30

    def __post_init__(self) -> None:
        for name in ("prefill_chunk", "activation_memory"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"expected {name} of 1 or more, got {value}")


@dataclass(frozen=True, kw_only=True)
class ChunkSizes:
    """The pieces that a prompt is run in.

    ``prefill_chunk`` is the tokens a forward pass reads at most, ``row_bytes`` the attention rows
    in float32 that are held at a time.
    """

    prefill_chunk: int = 2048
    row_bytes: int = 2**27

    def halved(self, *, longest: int) -> ChunkSizes:
        """Pieces half as large, for prompts of at most ``longest`` tokens."""
        return ChunkSizes(
            prefill_chunk=min(self.prefill_chunk, longest) // 2, row_bytes=self.row_bytes // 2
        )


def chunk_sizes_for(
    config: Any, memory: MemoryOptions, *, longest: int, element: int
) -> ChunkSizes:
    """The largest pieces that stay within an allowance beside weights and KV cache.

    Args:
        config: the model's configuration.
        memory: the allowance, and the tokens a forward pass if they are given.
        longest: tokens of the longest prompt.
        element: bytes of one number of the weights' type.
    """
    text = config.get_text_config(decoder=True)
    heads, width = text.num_attention_heads, text.hidden_size
    head_dim = getattr(text, "head_dim", None) or width // heads
    inner = max(
        getattr(text, "intermediate_size", None) or 4 * width,
        (getattr(text, "moe_intermediate_size", None) or 0)
        * (getattr(text, "num_experts_per_tok", None) or 0),
    )
    # Of a token in a layer: the residual stream and its copies, the MLP's two inner vectors and
    # their product, queries, keys, values and output; the mask's row as booleans and as numbers.
    token = element * (6 * width + 3 * inner + 5 * heads * head_dim) + longest * (1 + element)
    fitting = int(_ACTIVATIONS * memory.activation_memory) // token
    return ChunkSizes(
        prefill_chunk=memory.prefill_chunk or max(LEAST_CHUNK, min(MOST_CHUNK, fitting)),
        row_bytes=max(1, int(_ROWS * memory.activation_memory)),
    )


def parse_bytes(text: str) -> int:
    """``1GiB``, ``512MiB``, ``2G`` as a number of bytes.

    Raises:
        UsageError: it is not of that form, or nothing.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?i?)b?\s*", text.lower())
    if not found or found[2] not in _UNITS or not float(found[1]):
        message = "expected an amount of memory, as in 1GiB or 512MiB"
        raise UsageError(message, option="activation_memory", value=text)
    return int(float(found[1]) * _UNITS[found[2]])


def cache_bytes(layout: HeadLayout, *, tokens: int, element: int) -> int:
    """Bytes of a full KV cache: keys and values of every layer and KV head."""
    return 2 * layout.layers * layout.num_kv_heads * layout.head_dim * tokens * element

"""Choose how many tokens to run at a time, from the memory that this takes."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any

from headprobe.errors import UsageError
from headprobe.models.layout import HeadLayout

_LOG = logging.getLogger(__name__)
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")

LEAST_CHUNK, MOST_CHUNK = 32, 8192
# Fractions of the allowed memory: for a forward pass besides the KV cache, for observed rows, whose
# peak is about three times the rows of one call, and for logits, of which a copy is made. Where
# nothing is observed, the rows' memory is for the KV caches of a batch.
_ACTIVATIONS, _ROWS, _LOGITS = 0.5, 0.125, 0.0625
_CACHES = 3 * _ROWS


@dataclass(frozen=True, kw_only=True)
class MemoryOptions:
    """The memory that a run may take besides the weights and one KV cache.

    ``activation_memory`` is in bytes; ``prefill_chunk`` is the number of tokens of a forward pass,
    by default the most that the memory allows.
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
    """The sizes of the chunks in which a prompt is run.

    ``prefill_chunk`` is the most tokens of a forward pass, ``row_bytes`` the most bytes of
    attention rows (float32) that are held at a time, ``most_logits`` the most tokens of a pass
    whose logits are computed.
    """

    prefill_chunk: int = 2048
    row_bytes: int = 2**27
    most_logits: int = 256

    def halved(self, *, longest: int) -> ChunkSizes:
        """Return sizes half as large, for prompts of at most ``longest`` tokens."""
        return ChunkSizes(
            prefill_chunk=min(self.prefill_chunk, longest) // 2,
            row_bytes=self.row_bytes // 2,
            most_logits=max(1, self.most_logits // 2),
        )


def chunk_sizes_for(
    config: Any, memory: MemoryOptions, *, longest: int, element: int
) -> ChunkSizes:
    """Choose the largest chunks whose activations fit into the allowed memory.

    Args:
        config: the model's configuration.
        memory: the allowed memory, and the tokens of a forward pass if they are given.
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
    # A token's memory in a layer: the residual stream, its copies, the MLP's two inner vectors and
    # their product, queries, keys, values and output; the mask's row as booleans and as numbers.
    token = element * (6 * width + 3 * inner + 5 * heads * head_dim) + longest * (1 + element)
    fitting = int(_ACTIVATIONS * memory.activation_memory) // token
    found = ChunkSizes(
        prefill_chunk=memory.prefill_chunk or max(LEAST_CHUNK, min(MOST_CHUNK, fitting)),
        row_bytes=max(1, int(_ROWS * memory.activation_memory)),
        most_logits=max(1, int(_LOGITS * memory.activation_memory) // (element * text.vocab_size)),
    )
    _LOG.info("sizes for prompts of up to %d tokens: %s", longest, found)
    return found


def sequences_for(
    layout: HeadLayout, memory: MemoryOptions, sizes: ChunkSizes, *, longest: int, element: int
) -> int:
    """Return how many sequences can be run in one batch where no attention is observed.

    Their KV caches must fit into the allowed memory, and they share the tokens of a forward pass.

    Args:
        layout: the model's heads.
        memory: the allowed memory.
        sizes: the sizes of the chunks.
        longest: tokens of the longest prompt.
        element: bytes of one number of the weights' type.
    """
    one = cache_bytes(layout, tokens=longest, element=element)
    fitting = int(_CACHES * memory.activation_memory) // one
    return max(1, min(fitting, sizes.prefill_chunk // LEAST_CHUNK))


def parse_bytes(text: str) -> int:
    """Parse an amount of memory, such as ``1GiB``, ``512MiB`` or ``2G``, into bytes.

    Units are binary however they are written: 2G, 2GB and 2GiB are 2 * 1024**3 bytes.

    Raises:
        UsageError: the text has another form, or the amount is zero.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", text.lower(), re.ASCII)
    if not found or not float(found[1]):
        message = "expected an amount of memory, as in 1GiB or 512MiB"
        raise UsageError(message, option="activation_memory", value=text)
    return int(float(found[1]) * 1024 ** " kmgt".index(found[2] or " "))


def byte_size(count: int) -> str:
    """Write bytes in the binary unit that leaves one to four digits before the point."""
    size, units = float(count), list(_UNITS)
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.4g} {units[0]}"


def cache_bytes(layout: HeadLayout, *, tokens: int, element: int) -> int:
    """Compute the bytes of a full KV cache: keys and values of every layer and KV head."""
    return 2 * layout.layers * layout.num_kv_heads * layout.head_dim * tokens * element

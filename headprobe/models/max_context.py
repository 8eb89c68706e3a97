"""Find the number of positions that a model was made for, RoPE scaling included.

A configuration states ``max_position_embeddings``. Where RoPE is scaled, model families mean
different numbers by it: the extended number of positions (Llama 3.1, DeepSeek-V3, Phi-3), or the
number before scaling, which a user who adds ``yarn`` as Qwen's model cards say leaves unchanged.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from headprobe.errors import HeadprobeWarning, UsageError

# Kinds of RoPE scaling whose factor multiplies the context of training. In other kinds (llama3,
# longrope, proportional) the factor scales single frequencies and is no ratio of lengths: it is 32
# in Llama 3.2, which goes from 8,192 to 131,072 positions.
_STRETCHING = ("linear", "dynamic", "yarn")


def max_context(config: Any) -> int | None:
    """Return the number of positions that a configuration allows; ``None`` if it does not say.

    This is ``max_position_embeddings``, or the scaling factor times the context of training
    (``original_max_position_embeddings``) where that is more and the factor is a ratio of lengths.
    Gemma 3 scales only some layers, and states the extended number.
    """
    text = config.get_text_config(decoder=True)
    stated = getattr(text, "max_position_embeddings", None)
    if not isinstance(stated, int):
        return None
    rope = getattr(text, "rope_parameters", None) or {}
    kind, factor = rope.get("rope_type"), rope.get("factor")
    if not isinstance(rope, Mapping) or not isinstance(factor, int | float):
        return stated
    original = rope.get("original_max_position_embeddings") or stated
    states_extended = kind not in _STRETCHING and stated > original
    return stated if states_extended else max(stated, int(factor * original))


def allow_context(config: Any, wanted: int | None, *, name: str) -> int | None:
    """Return the number of positions that prompts may take; warn if it exceeds the model's own.

    Args:
        config: the model's configuration.
        wanted: the number that the user asks for; ``None`` for the number that the model allows.
        name: the model's name in warnings and errors.

    Raises:
        UsageError: ``wanted`` exceeds the number of learned positions.
    """
    allowed = max_context(config)
    if wanted is None or allowed is None or wanted <= allowed:
        return wanted or allowed
    text = config.get_text_config(decoder=True)
    if not getattr(text, "rope_parameters", None) and not getattr(text, "alibi", False):
        message = f"{name} has {allowed:,} learned positions and no more"
        raise UsageError(message, option="max_context", value=wanted)
    warnings.warn(
        f"{name} was made for {allowed:,} positions: after them, up to "
        f"`max_context={wanted}`, expect worse answers",
        HeadprobeWarning,
        stacklevel=2,
    )
    return wanted

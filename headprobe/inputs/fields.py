"""Read the texts in the fields of a row: not empty, bounded in length, fit for tokenizers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from headprobe.inputs.printable import brief

LONGEST_TEXT = 1_000_000
"""Bytes of a needle, a question or a word; prompts of this length exist, sentences do not."""
LONGEST_CONTEXT = 16_000_000
"""Bytes of a context that a question is asked about."""


def text_field(fields: Mapping[str, Any], name: str, *, longest: int = LONGEST_TEXT) -> str:
    """Return a field's text, stripped; ``ValueError`` where it has none, or one that is unfit."""
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"expected a text in field {name!r}, got {brief(value)}")
    return fit_text(value, f"field {name!r}", longest=longest)


def spelled_field(fields: Mapping[str, Any], name: str) -> str:
    """Return a field's text, stripped, or its number as it is written; else ``ValueError``."""
    return text_field({name: spelled(fields.get(name))}, name)


def spelled(value: Any) -> Any:
    """Spell out a finite number; return anything else as it is."""
    # By type(): true and false are integers to isinstance.
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return json.dumps(value)
    return value


def fit_text(text: str, where: str, *, longest: int = LONGEST_TEXT) -> str:
    """Return a text, stripped, that tokenizers can take.

    JSON can spell half of a surrogate pair, which is no character: tokenizers fail on it.

    Raises:
        ValueError: the text holds half a surrogate pair, or is longer than ``longest`` bytes.
    """
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        half = text[error.start : error.end]
        raise ValueError(f"{where} has half a surrogate pair, {half!r:.20}") from error
    if size > longest:
        raise ValueError(f"{where} has {size:,} bytes, {longest:,} are the most")
    return text.strip()

"""Make a record small and safe: packed arrays and texts, rounded numbers, texts of limited length.

A packed value is an object whose ``deflate`` is zlib's format in base64, as a browser's
``DecompressionStream`` reads it. Arrays have a ``type`` and a ``shape`` beside it.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped

MOST_CHARACTERS = 300
"""The length beyond which a text of a record is cut: names may be of any length."""
_TYPES = {"uint8": "<u1", "uint16": "<u2", "uint32": "<u4"}


def pack(array: Shaped[np.ndarray, "*size"]) -> dict[str, Any]:
    """Pack an array of unsigned integers."""
    kind = str(array.dtype)
    data = np.ascontiguousarray(array, dtype=_TYPES[kind]).tobytes()
    return {"type": kind, "shape": list(array.shape), "deflate": _deflated(data)}


def pack_json(value: Any) -> dict[str, Any]:
    """Pack a value that JSON can hold, for what has much text."""
    return {"type": "json", "deflate": _deflated(json.dumps(clean(value)).encode())}


def unpack(value: Any) -> Any:
    """Return a record with all that is packed in it as plain lists and objects.

    Raises:
        ValueError: something that is packed is damaged.
    """
    if isinstance(value, list):
        return [unpack(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "deflate" not in value:
        return {name: unpack(item) for name, item in value.items()}
    try:
        data = zlib.decompress(base64.b64decode(value["deflate"], validate=True))
        if value["type"] == "json":
            return json.loads(data)
        return np.frombuffer(data, dtype=_TYPES[value["type"]]).reshape(value["shape"]).tolist()
    except (KeyError, TypeError, zlib.error) as error:
        raise ValueError(f"expected packed data, got {error}") from error


def clean(value: Any) -> Any:
    """Return a value as JSON in a page can hold it.

    Long texts lose their middle, numbers that are not finite become null, halves of surrogate
    pairs, which paths may have, become question marks.
    """
    if isinstance(value, str):
        text = value.encode("utf-8", "replace").decode("utf-8")
        half = MOST_CHARACTERS // 2
        return text if len(text) <= MOST_CHARACTERS else f"{text[:half]} … {text[-half:]}"
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        if "deflate" in value:
            return value
        return {clean(str(name)): clean(item) for name, item in value.items()}
    return [clean(item) for item in value] if isinstance(value, list | tuple) else value


def counted(count: int, name: str) -> str:
    """Return a number of things as in "1 head" and "1,024 heads"."""
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def brief(plan: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a plan that are short enough to be read: no records, no long lists."""

    def is_short(value: Any) -> bool:
        if isinstance(value, list):
            return len(value) <= 32 and all(map(is_short, value))
        return value is not None and not isinstance(value, dict)

    return {name: value for name, value in plan.items() if is_short(value)}


def versions(found: Mapping[str, Any] | None) -> str:
    """Return the versions of programs on one line."""
    return ", ".join(f"{name} {version}" for name, version in (found or {}).items())


def rounded(values: Shaped[np.ndarray, "*size"], digits: int = 4) -> Any:
    """Return nested lists of floats with so many significant digits."""
    flat: list[Any] = [float(f"{value:.{digits}g}") for value in values.ravel().tolist()]
    for size in reversed(values.shape[1:]):
        flat = [flat[start : start + size] for start in range(0, len(flat), size)]
    return flat


def _deflated(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode("ascii")

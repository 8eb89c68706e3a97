"""Damaged JSON files: cut, with bytes changed, with values replaced or removed."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

_GONE = object()
VALUES: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 3, 7, 10**6, 10**12, 10**30, 0.5, -0.0, 1e308),
    *(float("nan"), float("inf"), "", "x", "x" * 10_000, "\x1b[31m\n", "../../etc/passwd"),
    *("somebody/kernel", "eager", "float16", "torch.Tensor", "\ud800"),
    *([], [1], [None], {}, {"a": 1}, [[[[]]]]),
)


def mutations(text: str, *, count: int, seed: int) -> Iterator[bytes]:
    """Yield damaged versions of a JSON text, the same ones for the same seed."""
    draw = random.Random(seed)
    content = json.loads(text)
    places = list(_places(content))
    for _ in range(count):
        kind = draw.random()
        if kind < 0.1:
            yield text.encode()[: draw.randrange(len(text))]
        elif kind < 0.2:
            damaged = bytearray(text.encode())
            for _ in range(3):
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
            yield bytes(damaged)
        else:
            changed = content
            for place in draw.choices(places, k=draw.choice((1, 1, 1, 2))):
                changed = _replace(changed, place, draw.choice((_GONE, *VALUES)))
            yield json.dumps(changed).encode()


def _places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if at:
        yield at
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _places(inner, (*at, key))


def _replace(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    value = copy.deepcopy(value)
    inner = value
    for key in place[:-1]:
        inner = inner[key] if isinstance(inner, dict) and key in inner else {}
    if isinstance(inner, dict):
        inner.pop(place[-1], None)
        if new is not _GONE:
            inner[place[-1]] = new
    return value

"""What families of imported files share: how they are read, damaged, and read more plainly."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headprobe.formats.import_run import read_run
from tests.hostile.damage import (
    WRONG_VALUES,
    damaged,
    harmless,
    leaves,
    special,
    with_key_twice,
    with_leaf,
    without_leaf,
)
from tests.hostile.trial import Input

_MOST = float(np.finfo(np.float32).max)


@dataclass(frozen=True, eq=False)
class Means:
    """For each measure the mean score of every head, equal up to the rounding of float32."""

    of: dict[str, Any]

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Means)
            and self.of.keys() == other.of.keys()
            and all(_are_close(found, other.of[name]) for name, found in self.of.items())
        )

    __hash__ = None  # type: ignore[assignment]


def _are_close(one: Any, other: Any) -> bool:
    return np.shape(one) == np.shape(other) and np.allclose(one, other, rtol=1e-6, atol=1e-37)


def reader(name: str) -> Callable[[Path | str], Means]:
    def read(source: Path | str) -> Means:
        run, *_ = read_run(Path(source), source=name)
        return Means({measure: run.mean(measure).tolist() for measure in run.measures})

    return read


def number(value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) <= _MOST:
        raise TypeError(value)
    return float(np.float32(value))


def matrix(named: dict[tuple[int, int], float], *, fill: float | None = None) -> list[list[float]]:
    """A matrix of all heads up to the highest; ``KeyError`` where one is missing."""
    layers, heads = (max(place) + 1 for place in zip(*named, strict=True))
    if layers > 1000 or heads > 1000 or layers * heads > 32_768:
        raise ValueError
    even = {} if fill is None else {at: 1 / (layers * heads) for at in np.ndindex(layers, heads)}
    full = even | named
    return [[full[layer, head] for head in range(heads)] for layer in range(layers)]


def size(rng: random.Random) -> tuple[int, int]:
    return rng.randint(1, 4), rng.randint(1, 4)


def value(rng: random.Random) -> float:
    return rng.choice([0.0, 1.0, rng.random(), rng.random() * 1e-4, round(rng.random(), 3), 1e-300])


def plainly(read: Callable[[Any], Any], content: Any) -> Any:
    try:
        return Means(read(content))
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        IndexError,
        OverflowError,
        RecursionError,
        SyntaxError,
        MemoryError,
    ):
        return None


def json_input(
    rng: random.Random, path: Path, document: Any, read: Callable[[Any], dict[str, Any]]
) -> Input:
    """Write a JSON document to a path as it is, or damaged in one way."""
    draw = rng.random()
    text = harmless(rng, document)
    if draw < 0.3:
        path.write_text(text, encoding="utf-8", newline="")
        return Input(source=path, truth=plainly(read, [document]))
    if draw < 0.35:
        return Input(source=path, truth=None, damage=special(rng, path))
    if draw < 0.45 and isinstance(document, dict):
        path.write_text(with_key_twice(rng, text), encoding="utf-8")
        return Input(source=path, truth=None, damage="key twice")
    if draw < 0.7 and leaves(document):
        at, wrong = rng.choice(leaves(document)), rng.choice(WRONG_VALUES)
        changed = (
            without_leaf(document, at) if rng.random() < 0.3 else with_leaf(document, at, wrong)
        )
        path.write_text(json.dumps(changed))
        return Input(source=path, truth=plainly(read, [changed]), damage=f"{at}: {wrong!r:.30}")
    damage, content = damaged(rng, text)
    path.write_bytes(content)
    return Input(source=path, truth=plainly(read, documents(content)), damage=damage)


def documents(content: bytes) -> list[Any]:
    """The JSON documents in a file, one after the other; none where it is no JSON."""
    try:
        rest, found = content.decode("utf-8-sig").strip(), []
        while rest:
            document, end = json.JSONDecoder().raw_decode(rest)
            found.append(document)
            rest = rest[end:].lstrip()
    except (ValueError, RecursionError):
        return []
    return found


def only(found: list[Any]) -> Any:
    [document] = found
    return document


def layer_of(layer: Any) -> int:
    if not re.fullmatch("[0-9]{1,6}", str(layer)) or isinstance(layer, float):
        raise ValueError
    return int(layer)

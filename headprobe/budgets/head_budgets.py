"""The record of how many cache entries every head may keep, and its file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from headprobe.errors import HeadprobeError, UsageError
from headprobe.files import atomic_write
from headprobe.inputs.files import LARGEST_FILE
from headprobe.inputs.schemas import parse_header
from headprobe.models.layout import HeadLayout
from headprobe.registry import method_names

FORMAT = "headprobe-budget"
VERSION = 1
GRANULARITIES = ("kv", "query")
SELECTIONS = ("attention", "streaming", "defensive", "value", "expected", "reconstruct")
SELECTION_GROUP = "headprobe.selections"
MAX_TOKENS = 2**31 - 1
NUMBER_BYTES = 2
"""Bytes of a number in the KV cache: models are served in bfloat16 or float16."""
CONTEXTS = (4096, 32_768, 131_072)
"""Lengths in tokens of the contexts of which tables and pictures say what a budget keeps."""
_MATRICES = ("selection", "tokens", "ratio")


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """The size of the cache that a budget keeps of a context of ``context_length`` tokens.

    ``tokens`` counts cache entries, each a key and a value, over all heads of all layers; ``bytes``
    is their size and ``full_bytes`` that of the full cache; ``fraction`` is the part of the full
    cache, from 0 to 1.
    """

    context_length: int
    tokens: int
    bytes: int
    full_bytes: int
    fraction: float


@dataclass(frozen=True, eq=False, kw_only=True)
class HeadBudgets:
    """Cache entries that every head of a model may keep.

    The matrices have a row a layer and a column a KV head, or a query head where ``granularity``
    is ``query``. In a context of N tokens a head keeps min(N, max(tokens, ceil(ratio * N)))
    entries, the ``window`` newest and the ``sinks`` first among them; its ``selection``, a name of
    ``selection_names()``, says how the rest are chosen: ``attention``, the entries most attended by
    the newest queries, ``streaming``, the newest, and so on. ``ratio`` is a fraction of the context
    from 0 to 1, and 1 a full cache. ``compensation`` adds RazorAttention's one entry that stands
    for what was dropped.
    ``strategy`` holds its ``name`` and every option that changes the numbers.
    """

    layout: HeadLayout
    strategy: Mapping[str, Any]
    granularity: str
    window: int
    sinks: int
    compensation: bool
    selection: Shaped[np.ndarray, "layer head"]
    tokens: Int[np.ndarray, "layer head"]
    ratio: Float[np.ndarray, "layer head"]

    def __post_init__(self) -> None:
        if not self.strategy.get("name"):
            raise ValueError("strategy: expected a name, got none")
        shape = budget_shape(self.layout, self.granularity)
        for name in ("window", "sinks"):
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value <= MAX_TOKENS:
                raise ValueError(f"{name}: expected an integer of at least 0, got {value!r}")
        for name in _MATRICES:
            matrix = getattr(self, name)
            if matrix.shape != shape:
                raise ValueError(f"{name}: expected shape {shape}, got {matrix.shape}")
        _refuse("tokens", self.tokens, (self.tokens < 0) | (self.tokens > MAX_TOKENS), "0 or more")
        _refuse("ratio", self.ratio, ~((self.ratio >= 0) & (self.ratio <= 1)), "0 to 1")
        if not np.isin(self.selection, SELECTIONS).all():
            # Names of other packages are looked up only where there are some.
            names = selection_names()
            unknown = ~np.isin(self.selection, names)
            _refuse("selection", self.selection, unknown, " or ".join(names))

    def kept(self, context_length: int) -> Int[np.ndarray, "layer head"]:
        """Return how many entries every head keeps of ``context_length`` tokens.

        A product ``ratio * N`` less than half a millionth above a whole number counts as that
        number: floats make 0.1 * 30 a little more than 3, and 3 entries are meant.
        """
        if context_length < 0:
            raise ValueError(f"expected a context of 0 tokens or more, got {context_length}")
        fraction = np.ceil(np.round(self.ratio * context_length, 6)).astype(np.int64)
        kept: Int[np.ndarray, "layer head"] = np.maximum(self.tokens, fraction).clip(
            max=context_length
        )
        return kept

    def fraction(self, context_length: int) -> float:
        """Return the fraction of the full cache that is kept of ``context_length`` tokens."""
        return float(self.kept(context_length).mean()) / context_length

    def footprint(self, context_length: int, *, number_bytes: int = NUMBER_BYTES) -> Footprint:
        """Measure the cache that is kept of a context, compensation entries included.

        A key and a value are ``head_dim`` numbers each, ``number_bytes`` a number. Of a budget for
        query heads, the full cache is one that repeats its KV heads for every query head.
        """
        kept = self.kept(context_length)
        tokens, full = int(kept.sum()), kept.size * context_length
        if self.compensation:
            tokens += int((kept < context_length).sum())
        entry_bytes = 2 * self.layout.head_dim * number_bytes
        return Footprint(
            context_length=context_length,
            tokens=tokens,
            bytes=tokens * entry_bytes,
            full_bytes=full * entry_bytes,
            fraction=tokens / full,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the content of a budget file."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "model": self.layout.to_json(),
            "strategy": dict(self.strategy),
            "granularity": self.granularity,
            "window": self.window,
            "sinks": self.sinks,
            "compensation": self.compensation,
            "selection": self.selection.tolist(),
            "tokens": self.tokens.tolist(),
            "ratio": self.ratio.tolist(),
        }

    def save(self, path: Path) -> None:
        """Write the budget file, whole or not at all: JSON, a line a row of a matrix.

        Raises:
            HeadprobeError: the file cannot be written.
        """
        fields = self.to_json()
        lines = [
            f'"{name}": {_rows(value) if name in _MATRICES else json.dumps(value, allow_nan=False)}'
            for name, value in fields.items()
        ]
        with atomic_write(path) as whole:
            whole.write_text("{" + ",\n ".join(lines) + "}\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> HeadBudgets:
        """Read a budget file and check it against the schema of docs/budget.schema.json.

        Raises:
            UsageError: there is no such file.
            HeadprobeError: it cannot be read or is not a valid budget; the message names the field.
        """
        if not path.is_file():
            message = f"no budget file at {path}; make one with `headprobe allocate`"
            raise UsageError(message, path=path)
        try:
            if path.stat().st_size > LARGEST_FILE:
                raise ValueError(f"it has more than {LARGEST_FILE:,} bytes")
            return cls._from_json(path.read_bytes())
        except OSError as error:
            raise HeadprobeError(f"cannot read {path}: {error.strerror}", path=path) from error
        except ValueError as error:
            raise HeadprobeError(f"{path} is not a valid budget: {error}", path=path) from error

    @classmethod
    def _from_json(cls, content: bytes) -> HeadBudgets:
        fields = parse_header(content, "budget")
        layout = HeadLayout.from_json(fields["model"])
        shape = budget_shape(layout, fields["granularity"])
        for name in _MATRICES:
            rows = [len(row) for row in fields[name]]
            if rows != [shape[1]] * shape[0]:
                raise ValueError(
                    f"{name}: expected {shape[0]} rows of {shape[1]} heads, "
                    f"got {len(rows)} rows of {' or '.join(map(str, sorted(set(rows))))}"
                )
        return cls(
            layout=layout,
            strategy=fields["strategy"],
            granularity=fields["granularity"],
            window=int(fields["window"]),
            sinks=int(fields["sinks"]),
            compensation=fields["compensation"],
            selection=np.array(fields["selection"], dtype=np.str_),
            tokens=np.array(fields["tokens"], dtype=np.int64),
            ratio=np.array(fields["ratio"], dtype=np.float64),
        )


def selection_names() -> list[str]:
    """List the names of all selections, ours first, then the selections of installed packages."""
    return method_names(dict.fromkeys(SELECTIONS), SELECTION_GROUP)


def is_budget_file(path: Path) -> bool:
    """Return whether a path ends in ``.json``, as budget files do, and is no directory."""
    return path.suffix.lower() == ".json" and not path.is_dir()


def budget_shape(layout: HeadLayout, granularity: str) -> tuple[int, int]:
    """Return the number of layers, and of heads a layer that a budget has a value for."""
    if granularity not in GRANULARITIES:
        raise ValueError(f"granularity: expected {' or '.join(GRANULARITIES)}, got {granularity!r}")
    return layout.layers, layout.num_kv_heads if granularity == "kv" else layout.num_heads


def _refuse(
    name: str,
    matrix: Shaped[np.ndarray, "layer head"],
    wrong: Bool[np.ndarray, "layer head"],
    expected: str,
) -> None:
    if wrong.any():
        layer, head = np.argwhere(wrong)[0]
        value = matrix[layer, head].item()
        raise ValueError(f"{name}[{layer}][{head}]: expected {expected}, got {value!r}")


def _rows(matrix: list[list[Any]]) -> str:
    return "[\n  " + ",\n  ".join(json.dumps(row) for row in matrix) + "]"

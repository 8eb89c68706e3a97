"""A CSV table for spreadsheets: a row a measure and head, or a row a head of a budget."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from headprobe.budgets import HeadBudgets
from headprobe.formats._files import Table, layers_note, parse_number, table_size
from headprobe.formats._format import Format
from headprobe.inputs.files import csv_rows
from headprobe.inputs.printable import brief
from headprobe.scores import HeadScores
from headprobe.scores.tables import head_table, write_table

_INDEX = re.compile(r"\d{1,6}", re.ASCII)
_MEASURE = re.compile(r"[\w-]{1,60}")


def write_scores(run: HeadScores, path: Path) -> tuple[str, ...]:
    """Write a run's ``heads.csv``.

    Raises:
        HeadprobeError: the file cannot be written.
    """
    write_table(head_table(run, seed=0), path)
    return ()


def write_budget(budgets: HeadBudgets, path: Path) -> tuple[str, ...]:
    """Write ``layer, kv_head, selection, tokens, ratio``, or ``head`` for a budget per query head.

    Raises:
        HeadprobeError: the file cannot be written.
    """
    import pandas as pd

    layers, heads = np.indices(budgets.tokens.shape)
    table = pd.DataFrame(
        {
            "layer": layers.ravel(),
            "kv_head" if budgets.granularity == "kv" else "head": heads.ravel(),
            "selection": budgets.selection.ravel(),
            "tokens": budgets.tokens.ravel(),
            "ratio": budgets.ratio.ravel(),
        }
    )
    write_table(table, path)
    return ()


def read(path: Path, *, layers: int | None, heads: int | None) -> Table:
    """Read ``layer``, ``head`` and ``score``, and a ``measure`` if it is told: a row a head.

    A column ``kv_head``, as ``heads.csv`` has it, tells how many heads share a KV head.

    Raises:
        UsageError: there is no such file, or it is no CSV.
        ValueError: a column, a head or a number is missing or wrong, or a head is there twice.
    """
    scores: dict[str, dict[tuple[int, int], float]] = {}
    kv_heads: dict[int, int] = {}
    for place, row in csv_rows(path, kind="scores"):
        cells = {name.strip().casefold(): cell.strip() for name, cell in row.items()}
        if missing := [name for name in ("layer", "head", "score") if name not in cells]:
            raise ValueError(f"it lacks the column {missing[0]}; it has {brief(list(row))}")
        try:
            head = _index(cells["layer"]), _index(cells["head"])
            of_measure = scores.setdefault(_measure(cells.get("measure", "csv")), {})
            if head in of_measure:
                raise ValueError(f"layer {head[0]}, head {head[1]} is there twice")
            of_measure[head] = parse_number(cells["score"])
            if "kv_head" in cells:
                kv_heads[head[1]] = _index(cells["kv_head"])
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from error
    if not scores:
        raise ValueError("it names no head")
    size = table_size(set().union(*scores.values()), layers=layers, heads=heads)
    return Table(
        per_case={measure: _matrix(found, size, measure) for measure, found in scores.items()},
        notes=layers_note(layers, size[0], "rows"),
        model=_kv_heads(kv_heads, size[1]),
    )


def _index(cell: str) -> int:
    if not _INDEX.fullmatch(cell):
        raise ValueError(f"expected the number of a layer or a head, got {brief(cell)}")
    return int(cell)


def _measure(name: str) -> str:
    if not _MEASURE.fullmatch(name):
        raise ValueError(f"expected the name of a measure, got {brief(name)}")
    return name


def _matrix(
    found: Mapping[tuple[int, int], float], size: tuple[int, int], measure: str
) -> Float[np.ndarray, "1 layer head"]:
    for place in np.ndindex(*size):
        if place not in found:
            raise ValueError(f"it lacks layer {place[0]}, head {place[1]} of {measure}")
    return np.array([found[place] for place in np.ndindex(*size)]).reshape(1, *size)


def _kv_heads(of_head: Mapping[int, int], heads: int) -> dict[str, int]:
    """Return how many KV heads a layer has, if groups of as many heads share one."""
    if not of_head:
        return {}
    count = max(of_head.values()) + 1
    if any(kv_head != head * count // heads for head, kv_head in of_head.items()):
        raise ValueError(f"column kv_head: expected {heads} heads in {count} equal groups")
    return {"kv_heads": count}


FORMAT = Format(
    summary="a table, a row a head",
    file=".csv",
    programs="spreadsheets",
    granularity="query",
    write_scores=write_scores,
    write_budget=write_budget,
    read=read,
)

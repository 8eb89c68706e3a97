"""Head budgets of Attention Matching (arXiv 2602.16284; adamzweiger/compaction, omlx).

JSON ``{"L0H0": p}``, every KV head's fraction of the whole cache. The program gives a head
``int(p * target * layers * KV heads)`` entries, and one that is missing ``target``.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from jaxtyping import Float

from headprobe.allocators._pool import BudgetSize
from headprobe.allocators.headkv import headkv
from headprobe.budgets import HeadBudgets
from headprobe.files import atomic_write
from headprobe.formats._files import Table, numbers, read_json, table_size
from headprobe.formats._format import Format
from headprobe.formats._heads import (
    amounts,
    group_note,
    kv_scores,
    not_negative,
    selection_note,
)
from headprobe.inputs.printable import brief
from headprobe.scores import HeadScores

_KEY = re.compile(r"L(\d{1,6})H(\d{1,6})", re.ASCII)
# The program rounds down: a fraction that comes out a hair too low would cost an entry.
_HAIR = 1e-12


def write_scores(
    run: HeadScores, path: Path, *, measure: str, reduce: str = "mean", beta: float = 1.2
) -> tuple[str, ...]:
    """Write the fractions that HeadKV's rule gives every head at any budget, its window aside.

    Raises:
        UsageError: an option is out of range.
        HeadprobeError: all scores are zero, or the file cannot be written.
    """
    scores, notes = not_negative(kv_scores(run, measure, reduce), measure)
    # With one whole context among all heads, no head can get more than all of it.
    whole = BudgetSize(fraction=1 / scores.size)
    _write(headkv(scores, group=1, window=0, budget=whole, beta=beta).ratio, path)
    return group_note(run, reduce) + notes


def write_budget(
    budgets: HeadBudgets, path: Path, *, context_length: int | None = None
) -> tuple[str, ...]:
    """Write a budget's fractions: a target of its mean gives every head exactly its entries.

    Raises:
        UsageError: the budget is per query head, or holds fractions and no context length is given.
        HeadprobeError: the file cannot be written.
    """
    kept = amounts(budgets, context_length)
    _write(kept / kept.sum(), path)
    target = f"the budget is got with a target of {kept.mean():g} entries a head"
    return (target, *selection_note(budgets))


def _write(fractions: Float[np.ndarray, "layer kv_head"], path: Path) -> None:
    table = {
        f"L{layer}H{head}": float(fractions[layer, head] * (1 + _HAIR))
        for layer, head in np.ndindex(*fractions.shape)
    }
    with atomic_write(path) as whole:
        whole.write_text(json.dumps(table, allow_nan=False) + "\n", encoding="utf-8")


def read(path: Path, *, layers: int | None, heads: int | None) -> Table:
    """Read the fractions; a head that is missing gets an even fraction, as in the program.

    Raises:
        UsageError: there is no such file.
        ValueError: the file is of another kind, or a fraction is no number of 0 or more.
    """
    document = read_json(path)
    if not isinstance(document, dict):
        raise ValueError(f"expected an object, got {brief(document)}")
    named: dict[tuple[int, int], float] = {}
    for name, value in document.items():
        match = _KEY.fullmatch(name)
        if not match:
            raise ValueError(f"{brief(name)} names no head; expected L0H0")
        [fraction] = numbers([value])
        named[int(match[1]), int(match[2])] = fraction
        if fraction < 0:
            raise ValueError(f"{name}: expected a fraction of 0 or more, got {fraction:g}")
    if len(named) < len(document):
        raise ValueError("a head is named twice")
    layers, heads = table_size(named, layers=layers, heads=heads)
    fractions = np.full((1, layers, heads), 1 / (layers * heads))
    for (layer, head), fraction in named.items():
        fractions[0, layer, head] = fraction
    missing = layers * heads - len(named)
    note = f"{missing} heads are missing and get the even fraction, as in the program"
    return Table(per_case={"attention-matching": fractions}, notes=(note,) if missing else ())


FORMAT = Format(
    summary="each KV head's fraction of the cache",
    file=".json",
    programs="Attention Matching (compaction), omlx",
    write_scores=write_scores,
    write_budget=write_budget,
    read=read,
)

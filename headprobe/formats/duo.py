"""DuoAttention's pattern: a gate per KV head, 1 for the whole cache (Xiao et al., 2410.10819).

A directory with ``full_attention_heads.tsv``, a line a layer, and ``config.json``; RLKV's SGLang
fork reads the same table as ``adapter_weights.tsv``. Readers clip gates to 0 to 1, then take a
quantile with a little noise on top, or cut at 0.5 in bfloat16. So gates are written that do not
come near one another, nor near 0.5.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from headprobe.budgets import HeadBudgets
from headprobe.errors import UsageError
from headprobe.files import atomic_write, make_directory
from headprobe.formats._files import Table, layers_note, parse_number, read_json, read_text
from headprobe.formats._format import Format
from headprobe.formats._heads import (
    HeadMask,
    gates,
    group_note,
    kv_scores,
    mask_of_budget,
    mask_of_scores,
    tie_note,
)
from headprobe.models.aliases import find_alias, sizes_of
from headprobe.scores import HeadScores

_TABLES = ("full_attention_heads.tsv", "adapter_weights.tsv")
_CONFIG = "config.json"


def write_scores(
    run: HeadScores,
    path: Path,
    *,
    measure: str,
    reduce: str = "max",
    sparsity: float = 0.5,
    sinks: int = 128,
    recent: int = 256,
) -> tuple[str, ...]:
    """Write the directory: the fraction ``sparsity`` of the gates lies below 0.5, others above.

    Raises:
        UsageError: an option is out of range, ``path`` is a file, or the model has one layer or one
            KV head.
        HeadprobeError: all scores are zero, or a file cannot be written.
    """
    scores = kv_scores(run, measure, reduce)
    mask = mask_of_scores(scores, sparsity=sparsity, sinks=sinks, recent=recent)
    _write(gates(scores, mask.full), mask, run.layout.id, path)
    return group_note(run, reduce) + tie_note(scores) + mask.notes


def write_budget(budgets: HeadBudgets, path: Path) -> tuple[str, ...]:
    """Write the directory for the heads that a budget keeps whole.

    Raises:
        UsageError: the budget is not one of whole and streaming KV heads, ``path`` is a file, or
            the model has one layer or one KV head.
        HeadprobeError: a file cannot be written.
    """
    mask = mask_of_budget(budgets)
    _write(gates(mask.full.astype(np.float64), mask.full), mask, budgets.layout.id, path)
    return (*mask.notes, "the budget has no scores: only its own sparsity gives its heads")


def _write(
    values: Float[np.ndarray, "layer kv_head"], mask: HeadMask, model: str, path: Path
) -> None:
    if min(values.shape) < 2:
        raise UsageError(
            f"readers of this format need 2 layers of 2 KV heads or more, {model} has "
            f"{values.shape[0]} of {values.shape[1]}: np.loadtxt would drop an axis"
        )
    config = {
        "model_name": model,
        "sink_size": mask.sinks,
        "recent_size": mask.recent,
        "sparsity": mask.sparsity,
        "threshold": 0.5,
    }
    table = "".join("\t".join(map(repr, row)) + "\n" for row in values.tolist())
    contents = {_CONFIG: json.dumps(config, indent=2) + "\n"} | dict.fromkeys(_TABLES, table)
    make_directory(path)
    # Without a table there is nothing to read: what stops in between leaves no mixture of two.
    for name in _TABLES:
        (path / name).unlink(missing_ok=True)
    for name, content in contents.items():
        with atomic_write(path / name) as whole:
            whole.write_text(content, encoding="utf-8")


def read(path: Path, *, layers: int | None, heads: int | None) -> Table:
    """Read the directory or its table; clip gates to 0 to 1, as all readers do.

    Where the directory has no table and one of its folders has, as in DuoAttention's repository,
    that folder is read. A configuration that names a known model tells its sizes, so that a table
    that is cut between two lines shows.

    Raises:
        UsageError: there is no such table, or several folders have one.
        ValueError: the file is no such table, or cut short.
    """
    table = _find_table(path)
    text = read_text(table)
    rows = [line.split("\t") for line in text.split("\n") if line]
    if not rows or len({len(row) for row in rows}) > 1:
        raise ValueError("expected lines of as many numbers each, with tabs between them")
    values = np.array([[parse_number(cell) for cell in row] for row in rows])[None]
    if not text.endswith("\n"):
        raise ValueError("its last line does not end: it is cut short, or add the line break")
    if np.isinf(values).any():
        raise ValueError("expected finite numbers, got an infinite one")
    clipped = np.clip(values, 0, 1)
    file = table.with_name(_CONFIG)
    config = read_json(file) if file.is_file() else {}
    if not isinstance(config, dict):
        raise ValueError(f"expected an object in {_CONFIG}")
    wanted = ("sink_size", "recent_size", "sparsity")
    changed = int((values != clipped).sum())
    model = _known_sizes(config)
    return Table(
        per_case={"duo": clipped},
        details={name: config[name] for name in wanted if name in config},
        notes=((f"{changed} gates were clipped to 0 to 1",) if changed else ())
        + layers_note(layers or model.get("layers"), len(rows), "lines of the table"),
        model=model,
        files=(table, file) if file.is_file() else (table,),
    )


def _find_table(path: Path) -> Path:
    if not path.is_dir():
        return path
    folders = [path, *sorted(folder for folder in path.iterdir() if folder.is_dir())]
    tables = [
        next((folder / name for name in _TABLES if (folder / name).is_file()), None)
        for folder in folders
    ]
    below = [table for table in tables[1:] if table]
    if tables[0] is None and len(below) > 1:
        names = ", ".join(table.parent.name for table in below)
        raise UsageError(f"{len(below)} folders in {path} have a table, name one: {names:.200}")
    found = tables[0] or next(iter(below), None)
    if found is None:
        raise UsageError(f"neither {' nor '.join(_TABLES)} in {path}, nor in a folder of it")
    return found


def _known_sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Return the sizes of the model that a configuration names, if it is a known one."""
    name = config.get("model_name")
    alias = find_alias(name) if isinstance(name, str) else None
    return {} if alias is None else sizes_of(alias)


FORMAT = Format(
    summary="a gate a KV head, 1 for the whole cache",
    file="directory",
    programs="DuoAttention, LServe, RLKV, HeadKV-SGLang, PruLong, WG-KV, kvpress",
    write_scores=write_scores,
    write_budget=write_budget,
    read=read,
)

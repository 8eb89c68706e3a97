"""DuoAttention's pattern: a gate per KV head, 1 for the whole cache (Xiao et al., 2410.10819).

A directory with ``full_attention_heads.tsv``, a line a layer, and ``config.json``; RLKV's SGLang
fork reads the same table as ``adapter_weights.tsv``. Readers clip gates to 0 to 1, then take a
quantile with a little noise on top, or cut at 0.5 in bfloat16. So gates are written that do not
come near one another, nor near 0.5.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from jaxtyping import Float

from headprobe.budgets import HeadBudgets
from headprobe.errors import UsageError
from headprobe.files import atomic_write, make_directory
from headprobe.formats._files import Table, read_json, read_text
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

    Raises:
        UsageError: there is no such table.
        ValueError: the file is no such table.
    """
    folder = path if path.is_dir() else path.parent
    found = [path] if not path.is_dir() else [path / t for t in _TABLES if (path / t).is_file()]
    if not found:
        raise UsageError(f"neither {' nor '.join(_TABLES)} in {path}")
    rows = [line.rstrip("\r").split("\t") for line in read_text(found[0]).splitlines() if line]
    if not rows or len({len(row) for row in rows}) > 1:
        raise ValueError("expected lines of as many numbers each, with tabs between them")
    values = np.array([[_number(cell) for cell in row] for row in rows])[None]
    clipped = np.clip(values, 0, 1)
    config = read_json(folder / _CONFIG)[0] if (folder / _CONFIG).is_file() else {}
    if not isinstance(config, dict):
        raise ValueError(f"expected an object in {_CONFIG}")
    wanted = ("sink_size", "recent_size", "sparsity")
    changed = int((values != clipped).sum())
    return Table(
        per_case={"duo": clipped},
        details={name: config[name] for name in wanted if name in config},
        notes=(f"{changed} gates were clipped to 0 to 1",) if changed else (),
    )


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        raise ValueError(f"expected numbers with tabs between them, got {cell[:20]!r}") from None


FORMAT = Format(
    summary="a gate a KV head, 1 for the whole cache",
    file="directory",
    programs="DuoAttention, LServe, RLKV, HeadKV-SGLang, PruLong, WG-KV, kvpress",
    write_scores=write_scores,
    write_budget=write_budget,
    read=read,
)

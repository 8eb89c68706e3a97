"""A safetensors file: a run's, or a budget's matrices under the names of the budget file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from headprobe.budgets import HeadBudgets
from headprobe.files import atomic_write
from headprobe.formats._files import Table
from headprobe.formats._format import Format
from headprobe.scores import FILE_NAME, HeadScores


def write_scores(run: HeadScores, path: Path) -> tuple[str, ...]:
    """Write a run's ``scores.safetensors``.

    Raises:
        HeadprobeError: the file cannot be written.
    """
    run.save(path)
    return ()


def write_budget(budgets: HeadBudgets, path: Path) -> tuple[str, ...]:
    """Write ``tokens`` (int64), ``ratio`` (float64) and ``streaming`` (bool), a row a layer.

    Header metadata key ``headprobe``: the rest of the budget file as JSON.

    Raises:
        HeadprobeError: the file cannot be written.
    """
    from safetensors.numpy import save

    header = budgets.to_json()
    del header["tokens"], header["ratio"]
    tensors = {
        "tokens": np.ascontiguousarray(budgets.tokens, dtype=np.int64),
        "ratio": np.ascontiguousarray(budgets.ratio, dtype=np.float64),
        "streaming": np.ascontiguousarray(budgets.selection == "streaming"),
    }
    with atomic_write(path) as whole:
        whole.write_bytes(save(tensors, metadata={"headprobe": json.dumps(header)}))
    return ()


def read(path: Path, *, layers: int | None, heads: int | None) -> Table:
    """Read a run's scores, all measures and cases, with its model and the needle of every case.

    Raises:
        UsageError: there is no such file.
        HeadprobeError: the file is damaged, or no run of ours.
    """
    run = HeadScores.load(path)
    return Table(
        per_case={measure: cases.astype(np.float64) for measure, cases in run.per_case.items()},
        plan=run.plan,
        model=run.layout.to_json(),
        files=(path / FILE_NAME if path.is_dir() else path,),
        task=run.task,
        needles=run.needles,
        means={measure: run.mean(measure) for measure in run.measures},
    )


FORMAT = Format(
    summary="scores or budget as tensors",
    file=".safetensors",
    programs="anything that opens safetensors",
    granularity="query",
    write_scores=write_scores,
    write_budget=write_budget,
    read=read,
)

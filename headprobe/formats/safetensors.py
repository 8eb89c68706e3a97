"""A safetensors file: a run's, or a budget's matrices under the names of the budget file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from headprobe.budgets import HeadBudgets
from headprobe.files import atomic_write
from headprobe.formats._format import Format
from headprobe.scores import HeadScores


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


FORMAT = Format(
    summary="scores or budget as tensors",
    file=".safetensors",
    programs="anything that opens safetensors",
    write_scores=write_scores,
    write_budget=write_budget,
)

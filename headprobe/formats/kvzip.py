"""Head scores of KVzip (Kim et al., arXiv 2505.23416): a ``.pt`` tensor, layers x KV heads.

At its level ``head`` the program keeps the heads that score strictly above a quantile, so heads of
one score fall together: they are set apart here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from headprobe.errors import UsageError
from headprobe.formats._files import Table, load_pt, save_pt
from headprobe.formats._format import Format
from headprobe.formats._heads import group_note, kv_scores, spread, tie_note
from headprobe.scores import HeadScores


def write_scores(
    run: HeadScores, path: Path, *, measure: str, reduce: str = "max"
) -> tuple[str, ...]:
    """Write scores from 0 to 1, the higher the sooner kept; scale them only if they lie outside.

    Raises:
        UsageError: the model has one layer or one KV head, whose axis the program squeezes away.
        HeadprobeError: all scores are zero, or the file cannot be written.
    """
    scores = kv_scores(run, measure, reduce)
    if min(scores.shape) < 2:
        raise UsageError(
            f"KVzip needs 2 layers of 2 KV heads or more, {run.layout.id} has {scores.shape[0]} of "
            f"{scores.shape[1]}: its reader would drop an axis"
        )
    values = spread(scores.ravel(), 0.0, 1.0).reshape(scores.shape)
    save_pt(values.astype(np.float32), path)
    return group_note(run, reduce) + tie_note(scores)


def read(path: Path, *, layers: int | None, heads: int | None) -> Table:
    """Read the tensor of scores, layers by KV heads.

    Raises:
        UsageError: there is no such file.
        ValueError: the file is damaged, holds anything but a tensor, or one of another shape.
    """
    tensor = load_pt(path)
    if not isinstance(tensor, np.ndarray):
        raise ValueError(f"expected a tensor, got {type(tensor).__name__}")
    table = tensor if tensor.ndim == 2 else tensor.squeeze()
    if table.ndim != 2 or not table.size:
        raise ValueError(f"expected a table of layers and KV heads, got {tensor.shape}")
    return Table(per_case={"kvzip": table[None]})


FORMAT = Format(
    summary="scores of KV heads from 0 to 1",
    file=".pt",
    programs="KVzip",
    write_scores=write_scores,
    read=read,
)

"""Put scores into tables, and write tables to files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from headprobe.files import atomic_write
from headprobe.inputs.printable import plain_cell
from headprobe.scores import HeadScores

if TYPE_CHECKING:
    import pandas as pd


def head_table(run: HeadScores, *, seed: int) -> pd.DataFrame:
    """Build a table of every measure and head: score, spread, 95 % interval and rank."""
    import pandas as pd

    layers, heads = np.divmod(
        np.arange(run.layout.layers * run.layout.num_heads), run.layout.num_heads
    )
    tables = []
    for measure in run.measures:
        numbers = run.statistics(measure, seed=seed)
        tables.append(
            pd.DataFrame(
                {
                    "layer": layers,
                    "head": heads,
                    "kv_head": heads // run.layout.group_size,
                    "measure": measure,
                    "score": numbers.mean.ravel(),
                    "std": numbers.std.ravel(),
                    "ci_low": numbers.ci_low.ravel(),
                    "ci_high": numbers.ci_high.ravel(),
                    "rank": numbers.rank.ravel(),
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as parquet or CSV, by suffix, whole or not at all."""
    with atomic_write(path) as whole:
        if path.suffix == ".parquet":
            table.to_parquet(whole, index=False)
        else:
            names = table.select_dtypes(["object", "string"]).columns
            table = table.assign(**{name: table[name].map(_cell) for name in names})
            table.to_csv(whole, index=False)


def _cell(value: object) -> object:
    return plain_cell(value) if isinstance(value, str) else value

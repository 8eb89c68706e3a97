"""A CSV table for spreadsheets: a row a measure and head, or a row a head of a budget."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from headprobe.budgets import HeadBudgets
from headprobe.formats._format import Format
from headprobe.scores import HeadScores
from headprobe.scores.tables import head_table, write_table


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


FORMAT = Format(
    summary="a table, a row a head",
    file=".csv",
    programs="spreadsheets",
    write_scores=write_scores,
    write_budget=write_budget,
)

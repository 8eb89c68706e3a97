"""How a budget reads in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headprobe.cli import output

if TYPE_CHECKING:
    import numpy as np

    from headprobe.budgets import HeadBudgets


def summarise(budgets: HeadBudgets, *, json: bool = False) -> None:
    """What every layer may keep, as a table, or the whole budget as JSON."""
    if json:
        output.show_json(budgets.to_json())
        return
    unit = "KV heads" if budgets.granularity == "kv" else "query heads"
    by_ratio = bool(budgets.ratio.any())
    matrix: np.ndarray = budgets.ratio if by_ratio else budgets.tokens
    title = (
        f"{budgets.layout.id}, {budgets.strategy['name']} {budgets.strategy.get('budget', '')}: "
        f"{'share of the context' if by_ratio else 'entries'} kept by {matrix.shape[1]} {unit} "
        f"a layer, {matrix.mean():.4g} on average"
    )
    columns = ["layer", *map(str, range(matrix.shape[1])), "mean"]
    rows = [[i, *row.tolist(), float(row.mean())] for i, row in enumerate(matrix)]
    output.show_table(title, columns, rows)

"""The record of how many KV-cache entries every head keeps, and its JSON file."""

from headprobe.budgets.head_budgets import (
    CONTEXTS,
    GRANULARITIES,
    MAX_TOKENS,
    SELECTION_GROUP,
    SELECTIONS,
    HeadBudgets,
    budget_shape,
    is_budget_file,
    selection_names,
)

__all__ = [
    "CONTEXTS",
    "GRANULARITIES",
    "MAX_TOKENS",
    "SELECTIONS",
    "SELECTION_GROUP",
    "HeadBudgets",
    "budget_shape",
    "is_budget_file",
    "selection_names",
]

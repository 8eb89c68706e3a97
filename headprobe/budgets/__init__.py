"""The record of how many KV-cache entries every head keeps, and its JSON file."""

from headprobe.budgets.head_budgets import (
    GRANULARITIES,
    MAX_TOKENS,
    HeadBudgets,
    budget_schema,
    budget_shape,
    is_budget_file,
)

__all__ = [
    "GRANULARITIES",
    "MAX_TOKENS",
    "HeadBudgets",
    "budget_schema",
    "budget_shape",
    "is_budget_file",
]

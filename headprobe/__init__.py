"""Profile every attention head of a causal language model; turn the scores into KV-cache budgets.

::

    model ──┐
            ├─► observe ─► measures ─► HeadScores ─► allocate ─► HeadBudgets ─► export · compress
    cases ──┘   (torch ends here)      (numpy from here on)       plot · show · compare · evaluate

Each step is a folder: models, prompts · attention, tasks, measures, runs · scores · allocators,
budgets · formats, compression, evaluation, ablation · plots, report, cli. The names below load as
used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headprobe.allocators import allocate, parse_budget
    from headprobe.budgets import HeadBudgets
    from headprobe.compression import HeadBudgetCache
    from headprobe.evaluation.answering import evaluate
    from headprobe.models.loading import load_model
    from headprobe.runs.score import score
    from headprobe.scores import HeadScores

__version__ = "0.1.0"

__all__ = [
    "HeadBudgetCache",
    "HeadBudgets",
    "HeadScores",
    "__version__",
    "allocate",
    "evaluate",
    "load_model",
    "parse_budget",
    "score",
]

_MODULES = {
    "HeadBudgetCache": "compression",
    "HeadBudgets": "budgets",
    "HeadScores": "scores",
    "allocate": "allocators",
    "evaluate": "evaluation.answering",
    "load_model": "models.loading",
    "parse_budget": "allocators",
    "score": "runs.score",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

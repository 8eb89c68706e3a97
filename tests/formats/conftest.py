from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headprobe.budgets import HeadBudgets
from headprobe.models.layout import HeadLayout
from headprobe.scores import HeadScores

# Which needs kvpress: `make test-kvpress`.
collect_ignore = [] if find_spec("kvpress") else ["test_press.py"]

LAYOUT = HeadLayout(
    id="tiny", architecture="llama", layers=3, num_heads=8, num_kv_heads=4, head_dim=8
)


@pytest.fixture
def published() -> Path:
    """Score files and patterns that other people released."""
    folder = Path(__file__).parents[2] / ".." / "shared" / "published"
    if not folder.is_dir():
        pytest.skip("the published files are not here")
    return folder


@pytest.fixture
def make_run() -> Callable[..., HeadScores]:
    """A run of five cases, or of the cases given, ``[case, 3 layers, 8 query heads]``."""

    def make(cases: np.ndarray | None = None, **changes: Any) -> HeadScores:
        if cases is None:
            cases = np.random.default_rng(0).random((5, 3, 8)).astype(np.float32)
        fields: dict[str, Any] = {
            "layout": LAYOUT,
            "task": "r2",
            "per_case": {"r2": cases},
            "needles": tuple(range(len(cases))),
            "cases": len(cases),
        }
        return HeadScores(**fields | changes)

    return make


@pytest.fixture
def make_budget() -> Callable[..., HeadBudgets]:
    """A budget of 4 KV heads in 3 layers, by attention unless told otherwise."""

    def make(**changes: Any) -> HeadBudgets:
        fields: dict[str, Any] = {
            "layout": LAYOUT,
            "strategy": {"name": "headkv"},
            "granularity": "kv",
            "window": 8,
            "sinks": 0,
            "compensation": False,
            "selection": np.full((3, 4), "attention"),
            "tokens": np.arange(20, 32).reshape(3, 4),
            "ratio": np.zeros((3, 4)),
        }
        return HeadBudgets(**fields | changes)

    return make


@pytest.fixture
def streaming_budget(make_budget: Callable[..., HeadBudgets]) -> HeadBudgets:
    """Five KV heads kept whole; the others keep 4 sinks and the 60 newest entries."""
    ratio = np.zeros((3, 4))
    ratio.ravel()[[0, 3, 4, 9, 11]] = 1.0
    return make_budget(
        strategy={"name": "duo"},
        window=60,
        sinks=4,
        selection=np.full((3, 4), "streaming"),
        tokens=np.full((3, 4), 64),
        ratio=ratio,
    )

"""Titles of tasks, measures and methods, by which tables and pictures call them."""

from __future__ import annotations

_TITLES = {"r2": "HeadKV-R2"}


def title(name: str) -> str:
    """Return what a task or measure is called in titles: HeadKV-R2 for ``r2``, else its name."""
    return _TITLES.get(name, name)


def method_title(strategy: str, selection: str | None, *, is_baseline: bool) -> str:
    """Return the strategy, and the selection where it is not attention or the baseline's own."""
    if is_baseline or selection in (None, "attention"):
        return strategy
    return f"{strategy} x {selection}"

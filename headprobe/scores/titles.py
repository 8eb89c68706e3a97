"""Titles of tasks and measures, by which tables and pictures call them."""

from __future__ import annotations

_TITLES = {"r2": "HeadKV-R2"}


def title(name: str) -> str:
    """Return what a task or measure is called in titles: HeadKV-R2 for ``r2``, else its name."""
    return _TITLES.get(name, name)

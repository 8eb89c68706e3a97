"""Selections: which entries a head keeps, whatever their number, one file each.

A selection is a function of what the cache has seen of a layer (``LayerView``) that says what every
entry is worth to every head (``EntryScores``). Each file ends in its ``SELECTION``; other packages
add theirs, a ``Selection``, through the entry-point group ``headprobe.selections``.
"""

from __future__ import annotations

from headprobe.budgets import SELECTION_GROUP, selection_names
from headprobe.compression.selections import (
    attention,
    defensive,
    expected,
    reconstruct,
    streaming,
    value,
)
from headprobe.compression.selections._selection import Need, Selection
from headprobe.registry import get_method

__all__ = ["SELECTIONS", "Need", "Selection", "get_selection", "needs_of", "selection_names"]

SELECTIONS: dict[str, Selection] = {
    "attention": attention.SELECTION,
    "streaming": streaming.SELECTION,
    "defensive": defensive.SELECTION,
    "value": value.SELECTION,
    "expected": expected.SELECTION,
    "reconstruct": reconstruct.SELECTION,
}


def get_selection(name: str) -> Selection:
    """Return the selection called ``name``; a ``UsageError`` lists the names that there are."""
    return get_method("selection", name, SELECTIONS, SELECTION_GROUP)


def needs_of(names: set[str]) -> set[Need]:
    """Return all that has to be gathered before a compression by some selections."""
    return {need for name in names for need in get_selection(name).needs}

"""The record of a format: what a file of another program holds, and how it is written and read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from headprobe.formats._files import Table

Notes = tuple[str, ...]
"""Lines for the user about a file that was written or read."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Format:
    """A kind of file that other programs read or write.

    Args:
        summary: one line on what the file holds.
        file: how the file is called.
        programs: whose file it is.
        granularity: whether a file that is read holds numbers of KV or of query heads.
        write_scores: ``(run, path, *, measure, **options) -> Notes``; its keyword-only parameters
            are the format's options. One without ``measure`` writes all measures.
        write_budget: ``(budgets, path, **options) -> Notes``.
        read: ``(path, *, layers, heads) -> Table``, told the sizes that are known; ``ValueError``
            for a file of another kind.
    """

    summary: str
    file: str
    programs: str
    granularity: str = "kv"
    write_scores: Callable[..., Notes] | None = None
    write_budget: Callable[..., Notes] | None = None
    read: Callable[..., Table] | None = None

"""The record of a selection."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from headprobe.compression.layer_view import EntryScores, LayerView

Need = Literal["queries", "output", "reconstruction"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Selection:
    """A rule that says which entries a head keeps.

    ``summary`` is one line for ``headprobe list selections``. ``needs`` names what has to be
    gathered before the compression, besides keys, values and the newest queries: the moments of all
    ``queries``, the ``output`` projection, a ``reconstruction`` of the context.
    """

    summary: str
    score: Callable[[LayerView], EntryScores]
    needs: tuple[Need, ...] = ()

"""The column of a page: what one file shows there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Draw = Callable[["Axes"], None]


@dataclass(frozen=True, eq=False, kw_only=True)
class Column:
    """The heading and the panels of one file.

    ``details`` are lines of facts; ``warning`` is what a reader must not miss. ``panels`` go from
    top to bottom, ``None`` where the file has nothing to show in that row; each draws itself into
    the axes that it is given.
    """

    title: str
    details: tuple[tuple[str, ...], ...]
    warning: str | None = None
    panels: tuple[Draw | None, ...]

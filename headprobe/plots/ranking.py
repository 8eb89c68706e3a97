"""Values of all heads in order, from the highest to the lowest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from headprobe.plots.scales import log_ticks, plain, positive_range

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINE, LEVEL = "#0072B2", "#D55E00"  # blue and vermilion of Okabe and Ito's colour-blind safe set
_MARKED = 20


def draw_ranking(
    axes: Axes,
    values: Float[np.ndarray, "layer head"],
    *,
    heads: str,
    label: str,
    level: float | None,
    logarithmic: bool = False,
) -> None:
    """Draw values against rank, from the highest to the lowest.

    The rank axis is logarithmic, to show the few high values and the tail. A broken line marks
    ``level``, if there is one.
    """
    ordered = np.sort(values, axis=None)[::-1]
    ranks = np.arange(1, ordered.size + 1)
    axes.set_xscale("log")
    _scale_values(axes, ordered, logarithmic=logarithmic)
    axes.fill_between(ranks, ordered, step="mid", color=LINE, alpha=0.2, linewidth=0)
    axes.step(ranks, ordered, where="mid", color=LINE, marker=".", markevery=slice(0, _MARKED))
    if level is not None:
        axes.axhline(level, color=LEVEL, linestyle="--", linewidth=1)
    axes.set_xlim(0.9, 1.1 * ordered.size)
    ticks = log_ticks(1.0, float(ordered.size))
    axes.set_xticks(ticks, [plain(tick) for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(f"{heads} by rank, highest first")
    axes.set_ylabel(label)


def _scale_values(axes: Axes, ordered: Float[np.ndarray, " head"], *, logarithmic: bool) -> None:
    if logarithmic:
        low, high = positive_range(ordered)
        low, high = low / 1.5, high * 1.5
        axes.set_yscale("log")
        ticks = log_ticks(low, high)
        axes.set_yticks(ticks, [plain(tick) for tick in ticks])
        axes.set_yticks([], minor=True)
    else:
        low, high = min(0.0, 1.05 * float(ordered[-1])), max(0.0, 1.08 * float(ordered[0]))
    axes.set_ylim(low, high if high > low else low + 1)

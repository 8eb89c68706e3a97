"""Panels of an ablation: accuracy against the number of heads ablated, and each measure's area."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from headprobe.ablation.curves import Ablation, Curve
from headprobe.plots.column import Column, Draw
from headprobe.plots.ranking import LEVEL, LINE
from headprobe.plots.scales import counted
from headprobe.scores.titles import title
from headprobe.stats.bootstrap import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES_SHOWN = 6
_RANDOM = "0.45"
# Okabe and Ito's colours, one a measure, and a mark of its own for who does not see them.
_LINES = (LEVEL, LINE, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "black")
_MARKS = "osv^DPX"
_DASHES = ("-", ":", "-.")  # from one round of the colours to the next


def ablation_column(ablation: Ablation) -> Column:
    """Build the column of an ablation: all measures together, then each of the best alone."""
    curves, full = ablation.curves(), ablation.accuracy
    panels: list[Draw] = [partial(_compare, curves=curves, full=full)] if len(curves) > 1 else []
    panels.append(partial(_areas, curves=curves))
    own = [partial(_single, curve=curve, full=full) for curve in curves[:CURVES_SHOWN]]
    layout = ablation.layout
    return Column(
        title=f"{layout.name}, {title(ablation.task)}: heads ablated",
        details=(
            (
                counted(len(ablation.needles), "case"),
                counted(layout.layers * layout.num_heads, "head"),
                f"by {ablation.plan['ablation']}",
                f"{counted(ablation.random_draws, 'draw')} of random heads",
                f"accuracy with none ablated {full.value:.1f} %",
            ),
            ("bars and bands: 95 % intervals over needles, of random heads over draws too",),
        ),
        panels=tuple([*own, *panels] if len(curves) == 1 else [*panels, *own]),
    )


def _compare(axes: Axes, *, curves: Sequence[Curve], full: Estimate) -> None:
    """Draw the curve of every measure's top heads, and all their random heads as one band."""
    for i, curve in enumerate(curves):
        _line(
            axes,
            curve.top_k,
            [full, *curve.top],
            color=_LINES[i % len(_LINES)],
            marker=_MARKS[i % len(_MARKS)],
            linestyle=_DASHES[i // len(_LINES) % len(_DASHES)],
            label=title(curve.measure),
        )
    together = list(zip(*(curve.random for curve in curves), strict=True))
    _band(
        axes,
        curves[0].top_k,
        [full.ci_low, *(min(point.ci_low for point in points) for points in together)],
        [full.ci_high, *(max(point.ci_high for point in points) for points in together)],
        label="random others",
    )
    _scale(axes, curves[0].top_k)
    axes.set_title("Top heads by each measure, best measure first")


def _areas(axes: Axes, *, curves: Sequence[Curve]) -> None:
    """Draw the area of every measure as a dot with its interval."""
    rows = np.arange(len(curves))
    for row, curve in zip(rows, curves, strict=True):
        axes.plot([curve.area.ci_low, curve.area.ci_high], [row, row], color=LINE, linewidth=2)
        axes.annotate(
            f"{curve.area.value:.2f}",
            (curve.area.value, row),
            (0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=8,
        )
    axes.scatter([curve.area.value for curve in curves], rows, s=28, color=LINE, zorder=3)
    axes.axvline(0, color=_RANDOM, linestyle="--", linewidth=1)
    axes.set_yticks(rows, [title(curve.measure) for curve in curves])
    axes.set_ylim(len(curves) - 0.4, -0.6)
    axes.set_xlim(min(-0.05, 1.1 * min(curve.area.ci_low for curve in curves)), 1.02)
    axes.set_xlabel("area between random and top (1: every answer lost at once)")
    axes.set_title("How well each measure predicts the loss")


def _single(axes: Axes, *, curve: Curve, full: Estimate) -> None:
    """Draw the curves of the top, random and bottom heads of one measure."""
    for name, points, colour, marker in (
        (f"top by {title(curve.measure)}", curve.top, LEVEL, "o"),
        (f"bottom by {title(curve.measure)}", curve.bottom, LINE, "v"),
    ):
        _line(axes, curve.top_k, [full, *points], color=colour, marker=marker, label=name)
        _whiskers(axes, curve.top_k, points, colour)
    random = [full, *curve.random]
    _line(axes, curve.top_k, random, color=_RANDOM, linestyle="--", label="random others")
    low, high = [point.ci_low for point in random], [point.ci_high for point in random]
    _band(axes, curve.top_k, low, high)
    _scale(axes, curve.top_k)
    axes.set_title(f"{title(curve.measure)}: area {curve.area.value:.2f}")


def _line(axes: Axes, top_k: Sequence[int], points: Sequence[Estimate], **style: Any) -> None:
    heights = [point.value for point in points]
    axes.plot([0, *top_k], heights, markersize=4, linewidth=1.4, **style)


def _whiskers(axes: Axes, top_k: Sequence[int], points: Sequence[Estimate], colour: str) -> None:
    low, high = [point.ci_low for point in points], [point.ci_high for point in points]
    axes.vlines(top_k, low, high, color=colour, linewidth=1, alpha=0.7)


def _band(
    axes: Axes,
    top_k: Sequence[int],
    low: Sequence[float],
    high: Sequence[float],
    label: str | None = None,
) -> None:
    axes.fill_between([0, *top_k], low, high, color=_RANDOM, alpha=0.25, linewidth=0, label=label)


def _scale(axes: Axes, top_k: Sequence[int]) -> None:
    """Scale heads by log2(1 + k), as the area counts them, and accuracy from 0 to 100 per cent."""
    axes.set_xscale("function", functions=(np.log1p, np.expm1))
    axes.set_xticks([0, *top_k], [str(k) for k in (0, *top_k)])
    axes.set_xlim(-0.05, 1.04 * top_k[-1])
    axes.set_ylim(-2, 104)
    axes.set_xlabel("heads ablated")
    axes.set_ylabel("accuracy, per cent")
    axes.legend(loc="lower left", frameon=False, fontsize=8)

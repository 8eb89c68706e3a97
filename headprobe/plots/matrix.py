"""Grids of coloured cells: the heads of a model, the cells of a probe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from headprobe.models.layout import HeadLayout
from headprobe.plots.scales import Write, log_ticks, plain, positive_range

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

NOTHING = "0.85"  # a light grey, which viridis does not have
HEADS_WRITTEN, VALUES_WRITTEN = 64, 100
_WIDTH, _HEIGHT = 4.1, 2.6  # about what a panel leaves for its cells, in inches
_TICKS = 16


def draw_heads(
    axes: Axes,
    values: Float[np.ndarray, "layer head"],
    layout: HeadLayout,
    *,
    label: str,
    colours: str,
    write: Write,
    logarithmic: bool = False,
) -> None:
    """Draw a cell for each head, layer 0 at the top.

    Lines part the query heads of different KV heads. Where heads are few their numbers stand in the
    cells, as ``write`` writes them.
    """
    low, high = positive_range(values) if logarithmic else _linear_range(values)
    image = axes.imshow(
        values,
        cmap=colours,
        norm="log" if logarithmic else "linear",
        vmin=low,
        vmax=high,
        aspect="auto",
        interpolation="nearest",
    )
    axes.set_facecolor(image.get_cmap()(0.0))  # what shows where a logarithm has no colour: at zero
    _add_colour_bar(axes, image, label, log_ticks(low, high) if logarithmic else None)
    layers, heads = values.shape
    axes.set_xticks(_every(heads))
    axes.set_yticks(_every(layers))
    axes.set_ylabel("layer (0 is next to the input)")
    axes.set_xlabel(_head_axis(heads, layout))
    if layout.num_kv_heads < heads:
        for edge in range(layout.group_size, heads, layout.group_size):
            axes.axvline(edge - 0.5, color="white", linewidth=0.7, alpha=0.8)
    if values.size <= HEADS_WRITTEN:
        _write_cells(axes, image, values, write)


def draw_grid(
    axes: Axes,
    values: Float[np.ndarray, "row column"],
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
    ends: tuple[float, float],
    write: Write,
) -> None:
    """Draw a cell for each value, coloured between the set ``ends``, grey where it is NaN.

    Where values are few they stand in the cells, as ``write`` writes them.
    """
    low, high = ends
    image = axes.imshow(
        values, cmap="viridis", vmin=low, vmax=high, aspect="auto", interpolation="nearest"
    )
    axes.set_facecolor(NOTHING)
    _add_colour_bar(axes, image, label)
    room = int(_WIDTH / (0.1 + 0.06 * max(map(len, columns))))
    for ticks, names, most in ((axes.set_xticks, columns, room), (axes.set_yticks, rows, _TICKS)):
        step = math.ceil(len(names) / most)
        ticks(range(0, len(names), step), names[::step])
    if values.size <= VALUES_WRITTEN:
        _write_cells(axes, image, values, write)


def _linear_range(values: Float[np.ndarray, "layer head"]) -> tuple[float, float]:
    low, high = min(0.0, float(values.min())), float(values.max())
    return low, high if high > low else low + 1


def _head_axis(heads: int, layout: HeadLayout) -> str:
    if layout.group_size == 1:
        return "head"
    if heads == layout.num_kv_heads:
        return "KV head"
    if layout.num_kv_heads == 1:
        return "query head (all share one KV head)"
    return f"query head (lines part the {layout.num_kv_heads} KV heads)"


def _add_colour_bar(
    axes: Axes, image: AxesImage, label: str, ticks: Sequence[float] | None = None
) -> None:
    """Add a scale as high as the panel, inside the space that the panel has to its right."""
    bar = axes.figure.colorbar(image, cax=axes.inset_axes((1.02, 0, 0.03, 1)), label=label)
    bar.outline.set_visible(False)
    if ticks is not None:
        bar.set_ticks(ticks, labels=[plain(tick) for tick in ticks])
        bar.ax.set_yticks([], minor=True)


def _every(count: int) -> range:
    step = 1
    while count > _TICKS * step:
        step *= 2
    return range(0, count, step)


def _write_cells(
    axes: Axes, image: AxesImage, values: Float[np.ndarray, "row column"], write: Write
) -> None:
    """Write the numbers, dark on light and light on dark, if the cells have room for them."""
    rows, columns = values.shape
    cells = np.argwhere(np.isfinite(values))
    longest = max(len(write(float(values[row, column]))) for row, column in cells)
    size = min(8.0, 72 * _WIDTH / columns / (0.7 * longest), 72 * _HEIGHT / rows / 1.3)
    if size < 5:
        return
    for row, column in cells:
        red, green, blue, _ = image.get_cmap()(image.norm(values[row, column]))
        light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
        axes.text(
            column,
            row,
            write(float(values[row, column])),
            ha="center",
            va="center",
            color="black" if light else "white",
            fontsize=size,
        )

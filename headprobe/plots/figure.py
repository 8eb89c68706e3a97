"""The page: a column for each file, or the panels of one file two by two; and the page's file."""

from __future__ import annotations

import logging
import re
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headprobe.ablation.curves import Ablation
from headprobe.budgets import HeadBudgets
from headprobe.errors import UsageError
from headprobe.evaluation.results import MethodResult
from headprobe.files import atomic_write
from headprobe.inputs.printable import printable
from headprobe.plots.ablations import ablation_column
from headprobe.plots.budgets import budget_column
from headprobe.plots.column import Column
from headprobe.plots.comparisons import comparison_column
from headprobe.plots.evaluations import evaluation_column
from headprobe.plots.runs import RunPicture, run_column
from headprobe.scores.comparison import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_FILES = 12
WIDTH = 16 / 3  # inches a column: one file, or two, make 1600 pixels
_DPI = 150
_HEIGHTS = (3.6, 2.8, 3.1, 3.1)
_ALARM = "#B34700"
_FIRM = "\N{NO-BREAK SPACE}"
# matplotlib's own, then fonts of systems for Chinese, Japanese and Korean: the first one that has
# a character draws it.
_FONTS = [
    *("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "PingFang SC"),
    *("Hiragino Sans", "Microsoft YaHei", "Malgun Gothic", "WenQuanYi Micro Hei", "SimHei"),
]
# What XML may not hold.
_NO_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
_STYLE: dict[str, Any] = {
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.dpi": _DPI,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    "font.size": 9,
    "svg.hashsalt": "headprobe",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}
# The formats, and which metadata to leave out because it differs from one saving to the next.
_FORMATS: dict[str, dict[str, Any]] = {
    "png": {},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A line of a heading, its ``size`` in points."""

    text: str
    size: int
    weight: str = "normal"
    colour: str = "black"

    @property
    def height(self) -> float:
        """The height in points, with the space to the next line."""
        return 1.35 * self.size


def draw(items: Sequence[RunPicture | HeadBudgets]) -> Figure:
    """Draw runs and budgets side by side, rows of panels aligned; a single one fills the page.

    Raises:
        UsageError: there are too many of them for one page.
    """
    if not 1 <= len(items) <= MOST_FILES:
        raise UsageError(f"one picture takes 1 to {MOST_FILES} files, got {len(items)}")
    return _page([run_column(i) if isinstance(i, RunPicture) else budget_column(i) for i in items])


def draw_comparison(compared: Comparison) -> Figure:
    """Draw rankings against one another: few of them pair by pair, many as grids."""
    return _page([comparison_column(compared)])


def draw_ablation(ablation: Ablation) -> Figure:
    """Draw accuracy against heads ablated, and how well each measure predicts the loss."""
    return _page([ablation_column(ablation)])


def draw_evaluation(results: Sequence[MethodResult], *, metric: str, subject: str) -> Figure:
    """Draw accuracy against the fraction of the cache, a panel a setting, a line a strategy."""
    return _page([evaluation_column(results, metric=metric, subject=subject)])


def _page(columns: Sequence[Column]) -> Figure:
    with _style():
        from matplotlib.figure import Figure

        figure = Figure(layout="constrained")
        if len(columns) == 1:
            _draw_alone(figure, columns[0])
        else:
            _draw_side_by_side(figure, columns)
        # Laid out once: the engine moves things a little at each drawing, whatever the format.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a picture in the format of its suffix, whole or not at all, the same bytes each time.

    Raises:
        UsageError: the suffix is none of png, svg and pdf.
        HeadprobeError: the file cannot be written.
    """
    suffix = path.suffix.lower().removeprefix(".")
    if suffix not in _FORMATS:
        raise UsageError(f"cannot draw {path}: its suffix must be .png, .svg or .pdf", path=path)
    with _style(), atomic_write(path) as whole:
        figure.savefig(whole, format=suffix, dpi=_DPI, metadata=_FORMATS[suffix])
        if suffix == "svg":
            drawn = whole.read_text(encoding="utf-8")
            whole.write_text(_NO_XML.sub("\N{REPLACEMENT CHARACTER}", drawn), encoding="utf-8")


@contextmanager
def _style() -> Iterator[None]:
    """Set our settings over matplotlib's own, whatever the user's matplotlibrc says.

    matplotlib is not to tell of fonts that lack characters, nor of a home without place for its
    cache.
    """
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    from matplotlib import style

    with (
        style.context(["default", _STYLE | {"font.family": _fonts()}]),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Glyph .* missing")
        yield


@cache
def _fonts() -> list[str]:
    """Return the fonts that are there: matplotlib looks for each that is not at every text."""
    from matplotlib.font_manager import fontManager

    there = {font.name for font in fontManager.ttflist}
    return [name for name in _FONTS if name in there]


def _draw_alone(figure: Figure, column: Column) -> None:
    """Draw one file: panels two by two; of three, the first is as high as the others together."""
    panels = [panel for panel in column.panels if panel]
    rows = (len(panels) + 1) // 2
    heading = _lines(column, 2 * WIDTH)
    heights = [_height(heading), *_HEIGHTS[:rows]]
    figure.set_size_inches(2 * WIDTH, sum(heights))
    grid = figure.add_gridspec(rows + 1, 2, height_ratios=heights)
    _write_heading(figure.add_subplot(grid[0, :]), heading)
    cells = [grid[row, side] for row in range(1, rows + 1) for side in range(2)]
    if len(panels) == 3:
        cells = [grid[1:, 0], grid[1, 1], grid[2, 1]]
    for panel, cell in zip(panels, cells, strict=False):
        panel(figure.add_subplot(cell))


def _draw_side_by_side(figure: Figure, columns: Sequence[Column]) -> None:
    rows = [row for row in range(len(_HEIGHTS)) if any(column.panels[row] for column in columns)]
    headings = [_lines(column, WIDTH) for column in columns]
    heights = [max(map(_height, headings)), *(_HEIGHTS[row] for row in rows)]
    figure.set_size_inches(WIDTH * len(columns), sum(heights))
    grid = figure.add_gridspec(len(heights), len(columns), height_ratios=heights)
    for side, (column, heading) in enumerate(zip(columns, headings, strict=True)):
        _write_heading(figure.add_subplot(grid[0, side]), heading)
        for place, row in enumerate(rows, start=1):
            if panel := column.panels[row]:
                panel(figure.add_subplot(grid[place, side]))


def _lines(column: Column, width: float) -> list[_Line]:
    """Break the heading into lines, none wider than ``width`` inches."""
    lines = [_Line(text=column.title, size=12, weight="bold")]
    if column.warning:
        lines.append(_Line(text=column.warning, size=10, weight="bold", colour=_ALARM))
    lines += [_Line(text=_in_one_line(facts), size=9) for facts in column.details]
    return [
        replace(line, text=part)
        for line in lines
        for part in textwrap.wrap(
            printable(line.text), int(72 * (width - 0.8) / (0.57 * line.size))
        )
    ]


def _in_one_line(facts: Sequence[str]) -> str:
    """Join facts with dots between them, so that a line is broken only after a dot."""
    return f"{_FIRM}· ".join(fact.replace(" ", _FIRM) for fact in facts)


def _height(heading: Sequence[_Line]) -> float:
    """Return the height of a heading in inches."""
    return sum(line.height for line in heading) / 72 + 0.15


def _write_heading(axes: Axes, heading: Sequence[_Line]) -> None:
    axes.set_axis_off()
    down = 0.0
    for line in heading:
        text = axes.annotate(
            line.text,
            (0, 1),
            (0, -down),
            "axes fraction",
            "offset points",
            va="top",
            fontsize=line.size,
            fontweight=line.weight,
            color=line.colour,
        )
        text.set_parse_math(False)
        text.set_in_layout(False)
        down += line.height

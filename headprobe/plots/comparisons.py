"""Panels of a comparison: scores against scores, overlap by k, and which rankings agree."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float32

from headprobe.plots.column import Column, Draw
from headprobe.plots.matrix import draw_grid
from headprobe.plots.ranking import LEVEL, LINE
from headprobe.plots.scales import counted, is_wide, log_ticks, plain
from headprobe.runs.titles import runs_facts
from headprobe.scores.comparison import Comparison, Ranking
from headprobe.stats.ranks import average_ranks, rank_correlation, top_overlap

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCATTERED = 4  # rankings; more make too many pairs to draw each
HEADS_NAMED, HEADS_SHOWN = 6, 12
_OTHERS = "0.6"
# Okabe and Ito's colours, one for each pair of four rankings.
_COLOURS = (LINE, LEVEL, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_STEPS = 40


def comparison_column(compared: Comparison) -> Column:
    """Build the column of a comparison: its heading and its panels.

    Few rankings are drawn pair by pair, many as grids of the agreement of every two.
    """
    rankings, k = compared.rankings, compared.k
    few = len(rankings) <= SCATTERED
    # A legend inside the panels would hide heads.
    colours = f"blue: heads in the top {k} of both", "orange: of one"
    names = tuple(f"{ranking.number}: {ranking.name}" for ranking in rankings)
    return Column(
        title=compared.subject or "Rankings of heads",
        details=(
            tuple(runs_facts(compared.runs)),
            (counted(len(rankings), compared.unit), counted(compared.heads, "head"), f"top {k}"),
            *([names] if compared.unit == "ranking" else []),
            *([colours] if few else []),
        ),
        panels=_pair_by_pair(rankings, k) if few else _all_together(rankings, compared.unit, k),
    )


def _pair_by_pair(rankings: Sequence[Ranking], k: int) -> tuple[Draw, ...]:
    pairs = itertools.combinations(rankings, 2)
    scatters = [partial(_scatter, one=one, other=other, k=k) for one, other in pairs]
    return *scatters, partial(_overlaps, rankings=rankings, k=k)


def _all_together(rankings: Sequence[Ranking], unit: str, k: int) -> tuple[Draw, ...]:
    return (
        partial(_correlation_grid, rankings=rankings, unit=unit),
        partial(_overlap_grid, rankings=rankings, unit=unit, k=k),
        partial(_top_heads, rankings=rankings, unit=unit),
        partial(_overlaps, rankings=rankings, k=k),
    )


def _scatter(axes: Axes, *, one: Ranking, other: Ranking, k: int) -> None:
    """Draw a dot for each head, its score in ``one`` against its score in ``other``.

    Heads at the top of either or both stand out by colour.
    """
    x, y = one.scores.ravel(), other.scores.ravel()
    top = (average_ranks(np.stack([x, y])) > x.size - k).sum(axis=0)
    for times, colour in enumerate((_OTHERS, LEVEL, LINE)):
        chosen = top == times
        axes.scatter(x[chosen], y[chosen], s=14, color=colour, alpha=0.7, linewidth=0)
    _scale_scores(x, axes.set_xscale, axes.set_xticks, axes.set_xlim)
    _scale_scores(y, axes.set_yscale, axes.set_yticks, axes.set_ylim)
    _name_heads(axes, one, other)
    axes.set_xlabel(f"mean score, {one.name}")
    axes.set_ylabel(f"mean score, {other.name}")
    rows = x[None], y[None]
    correlation, overlap = rank_correlation(*rows)[0], top_overlap(*rows, k)[0]
    axes.set_title(f"Rank correlation {correlation:.2f}, top {k} overlap by {overlap:.2f}")


def _scale_scores(
    scores: Float32[np.ndarray, " head"],
    set_scale: Callable[..., object],
    set_ticks: Callable[..., object],
    set_limits: Callable[..., object],
) -> None:
    """Make an axis logarithmic where scores differ widely, but linear near zero for the zeros."""
    if not is_wide(scores):
        return
    high = float(scores.max())
    near = high / 100
    set_scale("symlog", linthresh=near, linscale=0.5)
    ticks = [0.0, *log_ticks(near, high)]
    set_ticks(ticks, [plain(tick) for tick in ticks])
    set_ticks([], minor=True)
    set_limits(min(-near / 3, 1.3 * float(scores.min())), 2 * high)


def _name_heads(axes: Axes, one: Ranking, other: Ranking) -> None:
    """Write layer-head at the heads that are highest in either ranking, where there is room."""
    best = np.minimum(_places(one.scores), _places(other.scores))
    heads = np.argwhere(best <= HEADS_NAMED)
    taken: list[tuple[float, float]] = []
    for layer, head in heads[np.argsort(best[tuple(heads.T)], kind="stable")]:
        at = float(one.scores[layer, head]), float(other.scores[layer, head])
        across, up = (axes.transScale + axes.transLimits).transform(at)  # fractions of the panel
        if all(abs(across - x) > 0.1 or abs(up - y) > 0.06 for x, y in taken):
            taken.append((across, up))
            axes.annotate(f"{layer}-{head}", at, (3, 3), textcoords="offset points", fontsize=7)


def _places(scores: Float32[np.ndarray, "layer query_head"]) -> Float[np.ndarray, "layer head"]:
    """Rank the heads from 1 for the head with the highest score."""
    return average_ranks(-scores.reshape(1, -1)).reshape(scores.shape)


def _overlaps(axes: Axes, *, rankings: Sequence[Ranking], k: int) -> None:
    """Draw the overlap of tops of all sizes: a line a pair, or mean and range of many pairs."""
    flat = np.stack([ranking.scores.ravel() for ranking in rankings])
    heads = flat.shape[1]
    sizes = np.unique(np.geomspace(1, heads, _STEPS).round().astype(np.int64))
    pairs = list(itertools.combinations(range(len(rankings)), 2))
    one, other = (flat[list(side)] for side in zip(*pairs, strict=True))
    shared = np.stack([top_overlap(one, other, int(size)) for size in sizes])
    if len(rankings) <= SCATTERED:
        names = [f"{rankings[i].number} and {rankings[j].number}" for i, j in pairs]
        for line, name, colour in zip(shared.T, names, _COLOURS, strict=False):
            axes.plot(sizes, line, color=colour, label=name)
    else:
        axes.fill_between(
            sizes, shared.min(axis=1), shared.max(axis=1), color=LINE, alpha=0.2, linewidth=0
        )
        axes.plot(sizes, shared.mean(axis=1), color=LINE, label="mean, range")
    axes.plot(sizes, sizes / heads, color="black", linestyle=":", label="by chance")
    axes.axvline(k, color=LEVEL, linestyle="--", linewidth=1)
    axes.set_ylim(0, 1.03)
    _count_heads(axes, heads)
    axes.set_xlabel("heads in the top")
    axes.set_ylabel("fraction of the top in common")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    axes.set_title("Overlap of every two by size of the top")


def _count_heads(axes: Axes, heads: int) -> None:
    """Scale an axis from one head to all, logarithmically: the first few matter most."""
    axes.set_xscale("log")
    axes.set_xlim(0.9, 1.1 * heads)
    ticks = log_ticks(1.0, float(heads))
    axes.set_xticks(ticks, [plain(tick) for tick in ticks])
    axes.set_xticks([], minor=True)


def _correlation_grid(axes: Axes, *, rankings: Sequence[Ranking], unit: str) -> None:
    pairs = rank_correlation(*_crossed(rankings))
    _draw_pairs(axes, rankings, pairs, unit=unit, label="rank correlation")
    axes.set_title("Rank correlation of every two")


def _overlap_grid(axes: Axes, *, rankings: Sequence[Ranking], unit: str, k: int) -> None:
    pairs = top_overlap(*_crossed(rankings), k)
    _draw_pairs(axes, rankings, pairs, unit=unit, label="overlap")
    axes.set_title(f"Overlap of the top {k} of every two")


def _crossed(
    rankings: Sequence[Ranking],
) -> tuple[Float32[np.ndarray, "pair head"], Float32[np.ndarray, "pair head"]]:
    flat = np.stack([ranking.scores.ravel() for ranking in rankings])
    return flat.repeat(len(flat), axis=0), np.tile(flat, (len(flat), 1))


def _draw_pairs(
    axes: Axes,
    rankings: Sequence[Ranking],
    values: Float[np.ndarray, " pair"],
    *,
    unit: str,
    label: str,
) -> None:
    """Draw a cell for every two rankings, an empty one for a ranking with itself."""
    square = values.reshape(len(rankings), len(rankings)).copy()
    np.fill_diagonal(square, np.nan)
    numbers = [str(ranking.number) for ranking in rankings]
    ends = min(0.0, float(np.nanmin(square))), 1.0
    draw_grid(
        axes, square, rows=numbers, columns=numbers, label=label, ends=ends, write="{:.2f}".format
    )
    axes.set_xlabel(unit)
    axes.set_ylabel(unit)


def _top_heads(axes: Axes, *, rankings: Sequence[Ranking], unit: str) -> None:
    """Draw the places that the highest heads take: a dot a ranking, a bar their median."""
    places = np.stack([_places(ranking.scores) for ranking in rankings])
    middle = np.median(places, axis=0)
    best = np.argsort(middle, axis=None, kind="stable")[:HEADS_SHOWN]
    rows = np.arange(best.size)
    for place in places.reshape(len(rankings), -1)[:, best]:
        axes.scatter(place, rows, s=14, color=LINE, alpha=0.35, linewidth=0)
    axes.scatter(middle.ravel()[best], rows, s=60, color=LEVEL, marker="|")
    layers, heads = np.unravel_index(best, middle.shape)
    axes.set_yticks(rows, [f"{layer}-{head}" for layer, head in zip(layers, heads, strict=True)])
    axes.invert_yaxis()
    _count_heads(axes, middle.size)
    axes.set_xlabel("rank, highest first")
    axes.set_ylabel("layer-head")
    axes.set_title(f"Top {counted(best.size, 'head')}, a dot a {unit}, a bar their median")

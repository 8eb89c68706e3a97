"""Panels of a budget: entries of all heads, their order, the layers, and how much cache is kept."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from headprobe.budgets import CONTEXTS, HeadBudgets
from headprobe.plots.column import Column
from headprobe.plots.matrix import draw_heads
from headprobe.plots.ranking import LINE, draw_ranking
from headprobe.plots.scales import counted, is_wide, log_ticks, plain
from headprobe.runs.titles import sources_facts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SHORTEST = 128
"""Tokens of the shortest context that is drawn."""


def budget_column(budgets: HeadBudgets) -> Column:
    """Build the column of a budget: its heading and its panels.

    A budget that names fractions of the context is drawn in per cent of it, any other in entries.
    """
    by_fraction = bool(budgets.ratio.any())
    kept = 100 * budgets.ratio if by_fraction else budgets.tokens.astype(np.float64)
    label = "fraction of the context kept (%)" if by_fraction else "entries kept (tokens)"
    head = "KV head" if budgets.granularity == "kv" else "query head"
    amount = _fraction_kept(budgets, kept, head) if by_fraction else _entries_kept(kept, head)
    return Column(
        title=budgets.layout.name,
        details=(*sources_facts(budgets.strategy), _strategy(budgets), amount, _rules(budgets)),
        panels=(
            partial(_heads, budgets=budgets, kept=kept, label=label),
            partial(_distribution, kept=kept, heads=f"{head}s", label=label),
            partial(_layers, kept=kept, label=label),
            partial(_cache, budgets=budgets),
        ),
    )


def _strategy(budgets: HeadBudgets) -> tuple[str, ...]:
    """List the strategy's name and options, without the runs that it was made from."""
    options = [
        f"{name.replace('_', ' ')} {value}"
        for name, value in budgets.strategy.items()
        if name not in ("name", "scores") and value is not None
    ]
    return f"strategy {budgets.strategy['name']}", *options


def _entries_kept(kept: Float[np.ndarray, "layer head"], head: str) -> tuple[str, ...]:
    mean = f"mean {kept.mean():,.4g} entries a {head} ({_range(kept)})"
    return mean, f"{kept.sum():,.0f} in all"


def _fraction_kept(
    budgets: HeadBudgets, kept: Float[np.ndarray, "layer head"], head: str
) -> tuple[str, ...]:
    mean = f"mean {kept.mean():.3g} % of the context a {head} ({_range(kept)})"
    partly = budgets.tokens[budgets.ratio < 1]
    return (mean, f"at least {partly.min():,} entries") if partly.size else (mean,)


def _range(kept: Float[np.ndarray, "layer head"]) -> str:
    return f"{plain(float(kept.min()))} to {plain(float(kept.max()))}"


def _rules(budgets: HeadBudgets) -> tuple[str, ...]:
    """Describe the model's shape, and what every head keeps whatever its budget."""
    layout, streaming = budgets.layout, int((budgets.selection == "streaming").sum())
    grouped = f" for {counted(layout.num_heads, 'query head')}" if layout.group_size > 1 else ""
    return (
        f"{counted(layout.layers, 'layer')} of {counted(layout.num_kv_heads, 'KV head')}{grouped}",
        f"window {budgets.window}",
        *([f"sinks {budgets.sinks}"] if budgets.sinks else []),
        *(["compensation"] if budgets.compensation else []),
        *([f"{streaming:,} of {budgets.tokens.size:,} streaming"] if streaming else []),
    )


def _heads(
    axes: Axes, *, budgets: HeadBudgets, kept: Float[np.ndarray, "layer head"], label: str
) -> None:
    draw_heads(
        axes,
        kept,
        budgets.layout,
        label=label,
        colours="cividis",
        write=plain,
        logarithmic=is_wide(kept),
    )
    axes.set_title("Budget of every head")


def _distribution(
    axes: Axes, *, kept: Float[np.ndarray, "layer head"], heads: str, label: str
) -> None:
    mean = float(kept.mean())
    draw_ranking(axes, kept, heads=heads, label=label, level=mean, logarithmic=is_wide(kept))
    above = int((kept > mean).sum())
    axes.set_title(f"{above:,} of {counted(kept.size, 'head')} above the mean of {plain(mean)}")


def _layers(axes: Axes, *, kept: Float[np.ndarray, "layer head"], label: str) -> None:
    """Draw the mean of each layer's heads as a bar."""
    axes.bar(range(len(kept)), kept.mean(axis=1), color=LINE, alpha=0.6)
    axes.locator_params("x", integer=True)
    axes.set_xlabel("layer")
    axes.set_ylabel(label)
    axes.set_title("Mean budget of every layer")


def _cache(axes: Axes, *, budgets: HeadBudgets) -> None:
    """Draw the fraction of a full cache that is kept, from short contexts to long ones."""
    contexts = np.unique(np.geomspace(_SHORTEST, CONTEXTS[-1], 61).round().astype(np.int64))
    fractions = np.array([100 * budgets.fraction(int(context)) for context in contexts])
    axes.set_xscale("log")
    axes.plot(contexts, fractions, color=LINE)
    for context in CONTEXTS:
        fraction = 100 * budgets.fraction(context)
        axes.plot(context, fraction, ".", color=LINE, markersize=9)
        axes.annotate(
            f"{plain(fraction)} %", (context, fraction), (4, 4), textcoords="offset points"
        )
    if fractions.all():
        low, high = min(10.0, float(fractions.min()) / 1.5), 160.0
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        ticks = log_ticks(low, 100.0)
        axes.set_yticks(ticks, [plain(tick) for tick in ticks])
        axes.set_yticks([], minor=True)
    named = (_SHORTEST, 1024, *CONTEXTS)
    axes.set_xticks(named, [f"{context:,}" for context in named])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("context length (tokens)")
    axes.set_ylabel("fraction of a full cache (%)")
    axes.set_title("Cache kept by context length")

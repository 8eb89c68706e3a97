"""Panels of a run: scores of all heads, their order, the top heads, and where cases passed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float

from headprobe.plots.column import Column
from headprobe.plots.matrix import draw_grid, draw_heads
from headprobe.plots.ranking import LINE, draw_ranking
from headprobe.plots.scales import counted, evenly, plain
from headprobe.prompts.style import PromptDecision
from headprobe.runs.pass_rates import describe_cases
from headprobe.scores import HeadScores, HeadStatistics
from headprobe.scores.titles import title
from headprobe.tasks import find_task

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

TOP = 12
TENS = [10.0 * step for step in range(11)]
RETRIEVAL_HEAD = 0.1  # a mean above it makes a retrieval head, arXiv 2404.15574


@dataclass(frozen=True, eq=False, kw_only=True)
class RunPicture:
    """A run to draw: one ``measure`` of its scores, and its case table if there is one.

    Of the table, the columns ``length`` (tokens), ``depth`` (per cent) and ``accepted`` are used.
    The depths that the scores' plan names are told apart, or tens where it names none.
    The table shows where cases passed; the table of a task that asks nothing is not drawn.
    """

    scores: HeadScores
    measure: str
    cases: pd.DataFrame | None = None

    def __post_init__(self) -> None:
        if self.measure not in self.scores.measures:
            raise ValueError(f"expected one of {self.scores.measures}, got {self.measure!r}")
        if self.cases is None:
            return
        cases, passed = len(self.cases), int(self.cases["accepted"].sum())
        if (cases, passed) != (self.scores.cases, self.scores.passed):
            raise ValueError(
                f"expected a table of {self.scores.cases} cases with {self.scores.passed} "
                f"passed, got {cases} with {passed}"
            )


def run_column(run: RunPicture) -> Column:
    """Build the column of a run: its heading and its panels."""
    scores, layout = run.scores, run.scores.layout
    numbers = scores.statistics(run.measure, seed=scores.plan.get("seed", 0))
    label = f"mean {title(run.measure)} score"
    task = find_task(scores.task)
    passed = describe_cases(scores)
    on = f" on {counted(layout.num_kv_heads, 'KV head')}" if layout.group_size > 1 else ""
    queries = counted(layout.num_heads, "query head")
    few = scores.few_passed
    prompt = PromptDecision.in_record(scores.plan)
    return Column(
        title=layout.name,
        warning=f"Warning: only {passed}" if few else None,
        details=(
            (f"task {title(scores.task)}", f"measure {title(run.measure)}", passed),
            (f"{counted(layout.layers, 'layer')} of {queries}{on}",),
            *([(f"prompt {prompt.describe()}",)] if prompt else []),
        ),
        panels=(
            partial(_heads, run=run, mean=numbers.mean, label=label),
            partial(_distribution, measure=run.measure, mean=numbers.mean, label=label),
            partial(_top_heads, numbers=numbers, label=label),
            partial(_pass_grid, cases=run.cases, planned=scores.plan.get("depths") or TENS)
            if (task is None or task.asks) and run.cases is not None
            else None,
        ),
    )


def _heads(
    axes: Axes, *, run: RunPicture, mean: Float[np.ndarray, "layer query_head"], label: str
) -> None:
    layout = run.scores.layout
    draw_heads(axes, mean, layout, label=label, colours="viridis", write=evenly(mean))
    axes.set_title("Score of every head")


def _distribution(
    axes: Axes, *, measure: str, mean: Float[np.ndarray, "layer query_head"], label: str
) -> None:
    threshold = RETRIEVAL_HEAD if measure == "retrieval" else None
    draw_ranking(axes, mean, heads="query heads", label=label, level=threshold)
    axes.set_title(f"{_concentration(mean, threshold)}, {_fraction(mean == 0)} at zero")


def _concentration(mean: Float[np.ndarray, "layer query_head"], threshold: float | None) -> str:
    """Say how few heads matter: heads above the threshold, else heads that hold half the score."""
    heads = counted(mean.size, "head")
    if threshold is not None:
        return f"Of {heads}, {_fraction(mean > threshold)} above {threshold}"
    held = np.cumsum(np.sort(mean[mean > 0].astype(np.float64))[::-1])
    if not held.size:
        return f"None of {heads} above zero"
    half = int(np.searchsorted(held, held[-1] / 2)) + 1
    return f"{half:,} of {heads} {'holds' if half == 1 else 'hold'} half of all score"


def _fraction(chosen: Bool[np.ndarray, "*size"]) -> str:
    return f"{chosen.sum():,} ({plain(100 * float(chosen.mean()))} %)"


def _top_heads(axes: Axes, *, numbers: HeadStatistics, label: str) -> None:
    """Draw the highest means as bars, each with its bootstrap interval."""
    best = np.argsort(numbers.rank, axis=None)[:TOP]
    mean, low, high = (m.ravel()[best] for m in (numbers.mean, numbers.ci_low, numbers.ci_high))
    reach = np.maximum(0, [mean - low, high - mean])
    rows = np.arange(best.size)
    # As lists: of one bar's interval as an array numpy warns in matplotlib before 3.11.
    axes.barh(rows, mean, xerr=reach.tolist(), color=LINE, alpha=0.6, ecolor="black", capsize=2)
    layers, heads = np.unravel_index(best, numbers.mean.shape)
    names = [f"{layer}-{head}" for layer, head in zip(layers, heads, strict=True)]
    axes.set_yticks(rows, names)
    axes.invert_yaxis()
    axes.set_xlim(min(0.0, 1.05 * float(low.min())), max(0.0, 1.05 * float(high.max())) or 1.0)
    axes.set_xlabel(label)
    axes.set_ylabel("layer-head")
    axes.set_title(f"Top {counted(best.size, 'head')}, 95 % bootstrap intervals")


def _pass_grid(axes: Axes, *, cases: pd.DataFrame, planned: Sequence[float]) -> None:
    """Draw the fraction of passed cases at every length and depth.

    Cases count at the nearest of the depths ``planned``.
    """
    # A needle stands between two sentences, so no case is at quite the depth that was planned.
    away = np.abs(cases["depth"].to_numpy()[:, None] - np.asarray(planned))
    depths = np.asarray(planned)[away.argmin(axis=1)]
    table = cases.pivot_table(index=depths, columns="length", values="accepted", aggfunc="mean")
    draw_grid(
        axes,
        100 * table.to_numpy(dtype=np.float64),
        rows=[plain(depth) for depth in table.index],
        columns=[f"{length:,}" for length in table.columns],
        label="cases passed (%)",
        ends=(0.0, 100.0),
        write="{:.0f}".format,
    )
    axes.set_xlabel("prompt length (tokens)")
    axes.set_ylabel("needle depth (%)")
    passed, count = int(cases["accepted"].sum()), counted(len(cases), "case")
    axes.set_title(f"{passed:,} of {count} passed ({plain(100 * passed / len(cases))} %)")

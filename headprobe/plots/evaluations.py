"""Panels of an evaluation: accuracy against the fraction of the cache, a line a strategy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from headprobe.evaluation.baselines import is_like_baseline
from headprobe.evaluation.results import FULL, MethodResult
from headprobe.evaluation.settings import SETTINGS
from headprobe.plots.column import Column
from headprobe.plots.ranking import LEVEL, LINE
from headprobe.plots.scales import is_wide, log_ticks, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colours; markers and dashes tell lines apart without them.
_LINES = ("-", "-.", ":")
_CANDIDATES = ((LINE, "o"), (LEVEL, "s"), ("#56B4E9", "D"), ("#F0E442", "h"))
_BASELINES = (
    ("#E69F00", "^"),
    ("#009E73", "v"),
    ("#CC79A7", "P"),
    ("0.35", "X"),
    ("#8C564B", "<"),
    ("#882255", ">"),
    ("#332288", "p"),
    ("0.65", "*"),
)


def evaluation_column(results: Sequence[MethodResult], *, metric: str, subject: str) -> Column:
    """Build the column of an evaluation: a panel a setting, ``metric`` on the upright axis."""
    looks = _looks(results)
    settings = [name for name in SETTINGS if any(one.setting == name for one in results)]
    return Column(
        title=subject,
        details=(
            (f"{metric.replace('_', ' ')} by fraction of the KV cache", "bars: 95 % intervals"),
            ("dotted: the full cache", "broken: baselines"),
        ),
        panels=tuple(
            partial(
                _accuracy,
                results=[one for one in results if one.setting == setting],
                metric=metric,
                title=SETTINGS[setting],
                looks=looks,
            )
            for setting in settings
        ),
    )


def _looks(results: Sequence[MethodResult]) -> dict[str, dict[str, Any]]:
    """Choose colour, marker and line of every strategy, the same in all panels."""
    looks = {}
    for is_baseline, pairs in ((False, _CANDIDATES), (True, _BASELINES)):
        names = dict.fromkeys(
            one.name
            for one in results
            if one.strategy != FULL and is_like_baseline(one.strategy, one.selection) == is_baseline
        )
        for number, name in enumerate(names):
            colour, marker = pairs[number % len(pairs)]
            looks[name] = {
                "color": colour,
                "marker": marker,
                "markersize": 5,
                "linestyle": "--" if is_baseline else _LINES[number // len(pairs) % len(_LINES)],
                "zorder": 2 if is_baseline else 3,
            }
    return looks


def _accuracy(
    axes: Axes,
    *,
    results: Sequence[MethodResult],
    metric: str,
    title: str,
    looks: Mapping[str, dict[str, Any]],
) -> None:
    for name, look in looks.items():
        own = sorted((one for one in results if one.name == name), key=lambda one: one.fraction)
        estimates = [one.grades[metric] for one in own]
        values = np.array([found.value for found in estimates])
        reach = [
            values - [found.ci_low for found in estimates],
            [found.ci_high for found in estimates] - values,
        ]
        fractions = [100 * one.fraction for one in own]
        axes.errorbar(
            fractions,
            values,
            np.clip(reach, 0, None),
            label=name,
            capsize=2,
            elinewidth=0.8,
            **look,
        )
    full = next(one for one in results if one.strategy == FULL)
    axes.axhline(full.grades[metric].value, color="black", linestyle=":", label=FULL)
    _scale_fractions(axes, np.array([100 * one.fraction for one in results if one is not full]))
    axes.set_ylim(0, 103)
    axes.set_xlabel("fraction of the KV cache kept (%)")
    axes.set_ylabel(f"{metric.replace('_', ' ')} (%)")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    axes.set_title(title[0].upper() + title[1:])


def _scale_fractions(axes: Axes, fractions: np.ndarray) -> None:
    """Make an axis logarithmic where small fractions cannot be told apart otherwise."""
    if fractions.size == 0:
        return
    low, high = float(fractions.min()) / 1.3, float(fractions.max()) * 1.3
    if is_wide(np.array([low, high])) or high > 4 * low:
        axes.set_xscale("log")
        ticks = log_ticks(low, high)
        axes.set_xticks(ticks, [plain(tick) for tick in ticks])
        axes.set_xticks([], minor=True)
    axes.set_xlim(low, high)

"""Scores to budgets: one file a strategy.

A strategy is a function ``(scores, *, group, window, **options) -> Allocation``: a score for every
query head, ``group`` of which share one head of the budget, and keyword-only options of its own.
Options without a default must be given; all are recorded in the budget. Other packages add theirs
through the entry-point group ``headprobe.strategies``. ``mixing`` allocates from several runs at
once. What the methods share lies in files with a leading underscore.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from headprobe.allocators._allocation import Allocation
from headprobe.allocators._supply import BudgetSize, parse_budget
from headprobe.allocators.alibi import alibi
from headprobe.allocators.headkv import headkv
from headprobe.allocators.pyramid import pyramid
from headprobe.allocators.razor import razor
from headprobe.allocators.retrieval_heads import duo, threshold, top
from headprobe.allocators.tuned import tuned
from headprobe.allocators.uniform import uniform
from headprobe.budgets import GRANULARITIES, MAX_TOKENS, HeadBudgets
from headprobe.errors import UsageError
from headprobe.models.layout import HeadLayout
from headprobe.registry import get_method, given_options, method_names

__all__ = [
    "IN_OWN_UNIT",
    "READS",
    "STRATEGIES",
    "BudgetSize",
    "allocate",
    "get_strategy",
    "parse_budget",
    "strategy_names",
]

Strategy = Callable[..., Allocation]

STRATEGIES: dict[str, Strategy] = {
    "alibi": alibi,
    "duo": duo,
    "headkv": headkv,
    "pyramid": pyramid,
    "razor": razor,
    "threshold": threshold,
    "top": top,
    "tuned": tuned,
    "uniform": uniform,
}
READS = {"alibi": ("alibi",), "razor": ("induction", "echo")}
"""Measures that a strategy reads by their names; the others take whichever is chosen."""
IN_OWN_UNIT = ("alibi", "threshold")
"""Strategies that compare scores with a number in the measure's own unit."""
GROUP = "headprobe.strategies"
_GIVEN = ("group", "window", "measured")


def strategy_names() -> list[str]:
    """The names of all strategies, ours first, then those of installed packages."""
    return method_names(STRATEGIES, GROUP)


def get_strategy(name: str) -> Strategy:
    """The strategy of that name; a ``UsageError`` lists what there is."""
    return get_method("strategy", name, STRATEGIES, GROUP)


def allocate(
    scores: Float[np.ndarray, "layer query_head"],
    layout: HeadLayout,
    *,
    strategy: str = "headkv",
    budget: BudgetSize | None = None,
    window: int = 8,
    granularity: str = "kv",
    measured: Mapping[str, Float[np.ndarray, "layer query_head"]] | None = None,
    **options: Any,
) -> HeadBudgets:
    """Turn scores of every query head into a budget of every KV or query head.

    ``budget`` is what a head gets on average, where the strategy divides one. Every head keeps its
    ``window`` newest entries. ``measured`` holds the scores by measure for a strategy that reads
    several (``READS``). ``options`` are the strategy's own, such as ``beta``, ``reduce`` and
    ``context_length``; ``None`` leaves one at the strategy's default.

    Raises:
        UsageError: no such strategy, an option it does not take or lacks, or a value out of range.
        HeadprobeError: the scores cannot be used.
        ValueError: the scores are not of the layout's shape, or a measure that is read is missing.
    """
    measured = measured or {}
    for matrix in (scores, *measured.values()):
        if matrix.shape != (layout.layers, layout.num_heads):
            raise ValueError(
                f"expected scores of shape {(layout.layers, layout.num_heads)}, got {matrix.shape}"
            )
    if granularity not in GRANULARITIES:
        raise UsageError(f"--granularity takes {' or '.join(GRANULARITIES)}, got {granularity!r}")
    if not 0 <= window <= MAX_TOKENS:
        raise UsageError(f"--window must be 0 to {MAX_TOKENS}, got {window}")
    function = get_strategy(strategy)
    chosen = _options(strategy, function, {"budget": budget, **options})
    group = layout.group_size if granularity == "kv" else 1
    if "measured" in inspect.signature(function).parameters:
        function = partial(function, measured=measured)
    allocation = function(scores, group=group, window=window, **chosen)
    recorded = {
        option: value.as_given if isinstance(value, BudgetSize) else value
        for option, value in chosen.items()
    }
    return HeadBudgets(
        layout=layout,
        strategy={"name": strategy, **recorded},
        granularity=granularity,
        window=window,
        sinks=allocation.sinks,
        compensation=allocation.compensation,
        selection=allocation.selection,
        tokens=allocation.tokens,
        ratio=allocation.ratio,
    )


def _options(name: str, strategy: Strategy, given: dict[str, Any]) -> dict[str, Any]:
    """The strategy's options by name: as given, else its defaults."""
    given = given_options(f"strategy {name}", strategy, given, hidden=_GIVEN)
    chosen = {}
    for option, parameter in inspect.signature(strategy).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and option not in _GIVEN:
            chosen[option] = given.get(option, parameter.default)
            if chosen[option] is parameter.empty:
                raise UsageError(f"strategy {name} needs it", option=option)
    return chosen

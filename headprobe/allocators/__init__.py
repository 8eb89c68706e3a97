"""Turn scores into budgets: one file for each strategy.

Each file ends in its ``STRATEGY``; other packages add theirs, a ``Strategy``, through the
entry-point group ``headprobe.strategies``. ``mixing`` allocates from several runs at once. Helpers
that strategies share lie in files with a leading underscore.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from headprobe.allocators import (
    alibi,
    headkv,
    pyramid,
    razor,
    retrieval_heads,
    tuned,
    uniform,
    utility,
)
from headprobe.allocators._allocation import Allocation, by_attention
from headprobe.allocators._pool import BudgetSize, parse_budget
from headprobe.allocators._strategy import GIVEN, Strategy
from headprobe.allocators._streaming import full_or_streaming
from headprobe.budgets import GRANULARITIES, MAX_TOKENS, HeadBudgets, selection_names
from headprobe.errors import UsageError
from headprobe.models.layout import HeadLayout
from headprobe.registry import (
    declared_options,
    get_method,
    given_options,
    method_names,
    read_options,
)
from headprobe.scores.utility import UtilityCurves

__all__ = [
    "STRATEGIES",
    "Allocation",
    "BudgetSize",
    "Strategy",
    "allocate",
    "by_attention",
    "full_or_streaming",
    "get_strategy",
    "parse_budget",
    "parse_options",
    "strategy_names",
]


STRATEGIES: dict[str, Strategy] = {
    "alibi": alibi.STRATEGY,
    "duo": retrieval_heads.DUO,
    "headkv": headkv.STRATEGY,
    "pyramid": pyramid.STRATEGY,
    "razor": razor.STRATEGY,
    "threshold": retrieval_heads.THRESHOLD,
    "top": retrieval_heads.TOP,
    "tuned": tuned.STRATEGY,
    "uniform": uniform.STRATEGY,
    "utility": utility.STRATEGY,
}
GROUP = "headprobe.strategies"


def strategy_names() -> list[str]:
    """List the names of all strategies, ours first, then the strategies of installed packages."""
    return method_names(STRATEGIES, GROUP)


def get_strategy(name: str) -> Strategy:
    """Return the strategy called ``name``; a ``UsageError`` lists the names that there are."""
    return get_method("strategy", name, STRATEGIES, GROUP)


def parse_options(
    strategy: str, texts: Sequence[str], *, given: tuple[str, ...] = ("budget",)
) -> dict[str, Any]:
    """Read a strategy's options given as ``name=value``, by the types that it declares.

    ``given`` names the options that the caller gives in another way.

    Raises:
        UsageError: there is no such strategy or option, or a value is of another type.
    """
    function = get_strategy(strategy).allocate
    return read_options(f"strategy {strategy}", function, texts, hidden=(*GIVEN, *given))


def allocate(
    scores: Float[np.ndarray, "layer query_head"],
    layout: HeadLayout,
    *,
    strategy: str = "headkv",
    budget: BudgetSize | None = None,
    window: int = 8,
    granularity: str = "kv",
    selection: str | None = None,
    measured: Mapping[str, Float[np.ndarray, "layer query_head"]] | None = None,
    curves: UtilityCurves | None = None,
    **options: Any,
) -> HeadBudgets:
    """Turn scores of every query head into a budget of every KV or query head.

    Args:
        scores: the scores of one measure, or of several runs mixed.
        layout: the model's heads.
        strategy: a name of ``strategy_names()``.
        budget: the entries of a head on average, where the strategy divides a budget.
        window: the newest entries that every head keeps.
        granularity: ``kv`` or ``query``: the heads that the budget has a value for.
        selection: a name of ``selection_names()``: how heads choose the entries that they keep, in
            place of ``attention``.
        measured: the scores by measure, for a strategy that ``reads`` measures by name.
        curves: the utility of every KV head's entries, for a strategy that ``reads_curves``.
        options: the strategy's own, such as ``beta``, ``reduce`` and ``context_length``; ``None``
            leaves one at the strategy's default.

    Raises:
        UsageError: there is no such strategy, it lacks an option or does not take one, or a value
            is out of range.
        HeadprobeError: the scores cannot be used.
        ValueError: the scores are not of the layout's shape, or a measure or curves that are read
            are missing.
    """
    measured = measured or {}
    for matrix in (scores, *measured.values()):
        if matrix.shape != (layout.layers, layout.num_heads):
            raise ValueError(
                f"expected scores of shape {(layout.layers, layout.num_heads)}, got {matrix.shape}"
            )
    if granularity not in GRANULARITIES:
        message = f"expected {' or '.join(GRANULARITIES)}"
        raise UsageError(message, option="granularity", value=granularity)
    if not 0 <= window <= MAX_TOKENS:
        raise UsageError(f"expected 0 to {MAX_TOKENS}", option="window", value=window)
    chosen_strategy = get_strategy(strategy)
    function = chosen_strategy.allocate
    chosen = _options(strategy, function, {"budget": budget, **options})
    group = layout.group_size if granularity == "kv" else 1
    if "measured" in inspect.signature(function).parameters:
        function = partial(function, measured=measured)
    if chosen_strategy.reads_curves:
        if curves is None:
            raise ValueError(f"expected utility curves for strategy {strategy}, got none")
        function = partial(function, curves=curves)
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
        selection=_selection(strategy, allocation, selection),
        tokens=allocation.tokens,
        ratio=allocation.ratio,
    )


def _selection(
    strategy: str, allocation: Allocation, name: str | None
) -> Shaped[np.ndarray, "layer head"]:
    """Return how heads choose, ``name`` in place of attention."""
    own = allocation.selection
    if name is None:
        return own
    if name not in selection_names():
        message = f"no such selection; choose from {', '.join(selection_names())}"
        raise UsageError(message, option="selection", value=name)
    if not (own == "attention").any():
        message = f"the heads of strategy {strategy} keep everything or stream: leave it out"
        raise UsageError(message, option="selection", value=name)
    return np.where(own == "attention", name, own)


def _options(
    name: str, function: Callable[..., Allocation], given: dict[str, Any]
) -> dict[str, Any]:
    """Return the strategy's options by name: as given, else its defaults."""
    given = given_options(f"strategy {name}", function, given, hidden=GIVEN)
    declared = declared_options(function, GIVEN)
    chosen = {option: given.get(option, own.default) for option, own in declared.items()}
    for option, value in chosen.items():
        if value is inspect.Parameter.empty:
            raise UsageError(f"strategy {name} needs it", option=option)
    return chosen

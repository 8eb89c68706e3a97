"""Baselines that keep the same number of entries as a budget, but choose them otherwise.

uniform (SnapKV, arXiv 2404.14469), pyramid (PyramidKV, arXiv 2406.02069), adaptive (Ada-KV, arXiv
2407.11550, a layer's budget divided by attention), streaming (StreamingLLM, arXiv 2309.17453),
the uniform budget with the entries of DefensiveKV (arXiv 2510.13334) and KVzip (arXiv 2505.23416),
KVzip's entries ranked over all heads of the model, as its authors do, and the budget itself with
its heads shuffled, which is what shuffled scores would give.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from headprobe.allocators import BudgetSize, allocate
from headprobe.allocators._rounding import round_to_total, water_fill
from headprobe.budgets import HeadBudgets
from headprobe.evaluation.methods import CutPoint, Method

SINKS = 4
KVZIP, KVZIP_GLOBAL = "kvzip", "kvzip_global"
FLOOR = 0.2
BASELINES = (
    "uniform",
    "pyramid",
    "adaptive",
    "streaming",
    "defensive",
    KVZIP,
    KVZIP_GLOBAL,
    "shuffled",
)
_AS_CANDIDATES = {
    "uniform": ("uniform", "attention"),
    "pyramid": ("pyramid", "attention"),
    "defensive": ("uniform", "defensive"),
    KVZIP: ("uniform", "reconstruct"),
}
"""The strategy and selection of a candidate that is the same as a baseline."""
_At = Callable[[CutPoint], HeadBudgets]


def is_like_baseline(strategy: str, selection: str | None) -> bool:
    """Tell whether a method is a baseline, or a candidate that is the same as one."""
    if strategy in ("uniform", "pyramid"):
        return (strategy, selection) in _AS_CANDIDATES.values()
    return strategy in BASELINES


def with_baselines(
    candidates: Sequence[Method], *, seed: int, without: Collection[str] = ()
) -> list[Method]:
    """Add to the candidates of each budget the baselines that keep the same number of entries.

    The number is that of the budget's first candidate. A baseline that is a candidate with the same
    budget is not there twice; the baselines ``without`` are not there.
    """
    methods = []
    for name in dict.fromkeys(candidate.budget for candidate in candidates):
        own = [candidate for candidate in candidates if candidate.budget == name]
        entered = {(candidate.strategy, candidate.selection) for candidate in own}
        methods += own
        methods += [
            one
            for one in baselines(own[0], seed=seed)
            if one.strategy not in without and _AS_CANDIDATES.get(one.strategy) not in entered
        ]
    return methods


def baselines(candidate: Method, *, seed: int) -> list[Method]:
    """Build baselines that keep the candidate's number of entries in every context."""

    def uniform(cut_point: CutPoint) -> HeadBudgets:
        return _of_same_size("uniform", candidate.at(cut_point), cut_point.capacity)

    def pyramid(cut_point: CutPoint) -> HeadBudgets:
        return _of_same_size("pyramid", candidate.at(cut_point), cut_point.capacity)

    def streaming(cut_point: CutPoint) -> HeadBudgets:
        even = uniform(cut_point)
        return replace(_selecting("streaming", even, "streaming"), sinks=SINKS)

    def shuffled(cut_point: CutPoint) -> HeadBudgets:
        own = candidate.at(cut_point)
        return shuffle(own, capacity=cut_point.capacity, seed=(seed, cut_point.question_id))

    def method(
        strategy: str, selections: tuple[str, ...], at: _At | None = None, **shared: Any
    ) -> Method:
        """Build a baseline; without ``at`` it is the uniform budget by another selection."""

        def by_selection(cut_point: CutPoint) -> HeadBudgets:
            return _selecting(strategy, uniform(cut_point), *selections)

        return Method(
            strategy=strategy,
            budget=candidate.budget,
            window=candidate.window,
            at=at or by_selection,
            selections=selections,
            is_baseline=True,
            **shared,
        )

    attention, repetition = ("attention",), ("reconstruct",)
    return [
        method("uniform", attention, uniform),
        method("pyramid", attention, pyramid),
        method("adaptive", attention, uniform, floor=FLOOR),
        method("streaming", ("streaming",), streaming),
        method("defensive", ("defensive",)),
        method(KVZIP, repetition),
        method(KVZIP_GLOBAL, repetition, floor=0.0, across="model"),
        method("shuffled", candidate.selections, shuffled),
    ]


def _selecting(strategy: str, budgets: HeadBudgets, selection: str) -> HeadBudgets:
    """Return a budget whose heads choose their entries otherwise."""
    chosen = np.full(budgets.selection.shape, selection)
    return replace(budgets, strategy={"name": strategy}, selection=chosen)


def shuffle(
    budgets: HeadBudgets, *, capacity: Int[np.ndarray, " layer"], seed: int | tuple[int, ...]
) -> HeadBudgets:
    """Shuffle a budget's entries among the heads of all layers that can hold any.

    What a head has no ``capacity`` for goes to the other heads.
    """
    own = _held(budgets, capacity)
    holds = _holding(own, capacity)
    order = np.random.default_rng(seed).permutation(np.count_nonzero(holds))
    tokens, selection = own.copy(), budgets.selection.copy()
    tokens[holds], selection[holds] = own[holds][order], budgets.selection[holds][order]
    return replace(
        budgets,
        strategy={**budgets.strategy, "name": "shuffled"},
        selection=selection,
        tokens=_fill(tokens, capacity, total=int(own.sum())),
        ratio=np.zeros(own.shape),
    )


def _of_same_size(
    strategy: str, other: HeadBudgets, capacity: Int[np.ndarray, " layer"]
) -> HeadBudgets:
    """Allocate another budget's number of entries by a strategy that looks at no score.

    The strategy divides them among the layers that can hold any.
    """
    held = _held(other, capacity)
    holds = _holding(held, capacity)
    total = int(held.sum())
    if other.compensation:
        total = min(
            total + int((held < capacity[:, None]).sum()), int(capacity @ holds.sum(axis=1))
        )
    tokens = np.zeros(held.shape, dtype=np.int64)
    if total:
        layers = np.flatnonzero(capacity)
        mean = total / np.count_nonzero(holds)
        tokens[layers] = allocate(
            np.zeros((layers.size, other.layout.num_heads)),
            replace(other.layout, layers=layers.size),
            strategy=strategy,
            budget=BudgetSize(fraction=mean / capacity.max()),
            # With a mean below the window, the window is no floor.
            window=other.window if mean > other.window else 0,
            granularity=other.granularity,
            context_length=int(capacity.max()),
        ).tokens
    return HeadBudgets(
        layout=other.layout,
        strategy={"name": strategy},
        granularity=other.granularity,
        window=other.window,
        sinks=0,
        compensation=False,
        selection=np.full(tokens.shape, "attention"),
        tokens=_fill(tokens, capacity, total=total),
        ratio=np.zeros(tokens.shape),
    )


def _held(
    budgets: HeadBudgets, capacity: Int[np.ndarray, " layer"]
) -> Int[np.ndarray, "layer head"]:
    """Count the entries that every head keeps, without compensation entries."""
    kept = {tokens: budgets.kept(tokens) for tokens in set(capacity.tolist())}
    return np.stack([kept[tokens][layer] for layer, tokens in enumerate(capacity.tolist())])


def _holding(
    entries: Int[np.ndarray, "layer head"], capacity: Int[np.ndarray, " layer"]
) -> Bool[np.ndarray, "layer head"]:
    """Mark the heads that can hold any entries."""
    return np.broadcast_to(capacity[:, None] > 0, entries.shape)


def _fill(
    tokens: Int[np.ndarray, "layer head"], capacity: Int[np.ndarray, " layer"], *, total: int
) -> Int[np.ndarray, "layer head"]:
    """Round entries to the sum ``total``, no head above its capacity.

    What a head has no capacity for goes to the other heads.
    """
    wanted = tokens.astype(np.float64)
    cap = np.broadcast_to(capacity[:, None], tokens.shape).astype(np.float64)
    return round_to_total(
        water_fill(wanted, wanted, total=float(total), cap=cap), total=total, ties=tokens
    )

"""The methods of an evaluation: budgets as they are, and sizes divided anew for each context."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from headprobe.allocators import BudgetSize, parse_budget
from headprobe.allocators.mixing import WeightedRun, allocate_runs
from headprobe.budgets import HeadBudgets, budget_shape, is_budget_file
from headprobe.errors import UsageError
from headprobe.evaluation.settings import SETTINGS
from headprobe.models.layout import HeadLayout, check_same_heads

if TYPE_CHECKING:
    from headprobe.compression.target import Across

STRATEGY = "headkv"
SELECTION, STREAMING = "attention", "streaming"


@dataclass(frozen=True, eq=False, kw_only=True)
class CutPoint:
    """The point where a cache is compressed: after ``tokens`` tokens of question ``question_id``.

    ``capacity`` is the entries that a head of each layer can hold then: all the tokens, the tokens
    inside a sliding window, or none in a layer that caches no keys.
    """

    tokens: int
    question_id: int
    capacity: Int[np.ndarray, " layer"]

    @classmethod
    def whole(cls, layout: HeadLayout, *, tokens: int) -> CutPoint:
        """Build the cut point of a model all of whose layers hold every token."""
        return cls(tokens=tokens, question_id=0, capacity=np.full(layout.layers, tokens))


@dataclass(frozen=True, eq=False, kw_only=True)
class Method:
    """A way to compress the cache: a ``strategy``, a ``selection`` and the ``budget`` asked for.

    ``at`` gives the entries of every head, which are chosen by the ``selections``; the ``window``
    newest tokens are kept, and by attention they choose. With a ``floor`` the entries of a layer's
    heads, or ``across`` the model of all heads, are divided by what the selection finds them worth,
    and a head is sure to keep that fraction of its own.
    """

    strategy: str
    budget: str
    window: int
    at: Callable[[CutPoint], HeadBudgets]
    selections: tuple[str, ...] = (SELECTION,)
    floor: float | None = None
    across: Across = "layer"
    is_baseline: bool = False

    @property
    def selection(self) -> str:
        """The selections of all heads: ``attention``, or ``attention+streaming``."""
        return "+".join(self.selections)


def everything(layout: HeadLayout, *, granularity: str = "kv", window: int = 0) -> HeadBudgets:
    """Build a budget that evicts nothing."""
    shape = budget_shape(layout, granularity)
    return HeadBudgets(
        layout=layout,
        strategy={"name": "full"},
        granularity=granularity,
        window=window,
        sinks=0,
        compensation=False,
        selection=np.full(shape, SELECTION),
        tokens=np.zeros(shape, dtype=np.int64),
        ratio=np.ones(shape),
    )


def fixed(
    strategy: str, budget: str, budgets: HeadBudgets, *, selection: str | None = None
) -> Method:
    """Build the method of a budget that is the same in every context.

    A ``selection`` takes the place of every head's own but streaming.
    """
    if selection is not None:
        own = budgets.selection
        budgets = replace(budgets, selection=np.where(own == STREAMING, own, selection))
    return Method(
        strategy=strategy,
        budget=budget,
        window=budgets.window,
        at=lambda cut_point: budgets,
        selections=tuple(np.unique(budgets.selection).tolist()),
    )


def allocated(
    runs: Sequence[WeightedRun],
    budget: BudgetSize,
    *,
    strategy: str = "headkv",
    window: int = 8,
    granularity: str = "kv",
    selection: str = SELECTION,
    **options: Any,
) -> Method:
    """Build the method that divides a size by scores anew for each context.

    What a context is too short for goes to other heads. Where a fraction of the context is so small
    that it leaves nothing beyond the window, every head gets one entry beyond; a context no longer
    than the window is kept whole. ``options`` are the options of ``allocate_runs``.
    """

    @cache
    def at(tokens: int) -> HeadBudgets:
        if tokens <= window:
            return everything(runs[0].scores.layout, granularity=granularity, window=window)
        size = budget
        if size.fraction is not None:
            size = BudgetSize(fraction=max(size.fraction, (window + 1) / tokens))
        return allocate_runs(
            runs,
            strategy=strategy,
            budget=size,
            window=window,
            granularity=granularity,
            selection=None if selection == SELECTION else selection,
            context_length=tokens,
            **options,
        )

    return Method(
        strategy=strategy,
        budget=str(budget.as_given),
        window=window,
        at=lambda cut_point: at(cut_point.tokens),
        selections=(selection,),
    )


@dataclass(frozen=True, kw_only=True)
class MethodOptions:
    """The budgets to compare, how sizes among them are divided, and when the cache is compressed.

    ``budgets`` are sizes and paths of budget files. Sizes are divided by each of the
    ``strategies``, with the ``options`` of ``allocated``, from ``scores``: a run directory or its
    file; left out, the newest run. Each is evaluated with each of the ``selections``; left out,
    with attention, and a file with its own. ``settings`` are of ``SETTINGS``.
    """

    budgets: tuple[BudgetSize | Path, ...]
    scores: Path | None = None
    strategies: tuple[str, ...] = ()
    selections: tuple[str, ...] = ()
    settings: tuple[str, ...] = tuple(SETTINGS)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def files(self) -> list[Path]:
        """The budget files."""
        return [budget for budget in self.budgets if isinstance(budget, Path)]

    def __post_init__(self) -> None:
        dividing = [*(["strategy"] if self.strategies else []), *self.options]
        if dividing and len(self.files) == len(self.budgets):
            raise UsageError(
                "says how sizes are divided: leave it out, or give `budget` a size",
                option=dividing[0],
            )


def parse_budgets(typed: Sequence[str]) -> tuple[BudgetSize | Path, ...]:
    """Read ``128``, ``1.5%``, several with commas, or the path of a budget file.

    Raises:
        UsageError: a text is no budget.
    """
    texts = [
        [text] if _is_file(text) and Path(text).exists() else text.split(",") for text in typed
    ]
    budgets: list[BudgetSize | Path] = []
    for text in [part.strip() for parts in texts for part in parts]:
        budgets.append(Path(text) if _is_file(text) else parse_budget(text))
    return tuple(budgets)


def build_methods(options: MethodOptions, runs: Sequence[WeightedRun]) -> list[Method]:
    """Build the methods to compare: budget files as they are, sizes divided by ``runs``' scores.

    A file's budget is named after the file, or by its path where two files have one name.

    Raises:
        UsageError: a budget is given twice.
        HeadprobeError: a budget file is damaged.
    """
    candidates = []
    names = [
        budget.stem if isinstance(budget, Path) else str(budget.as_given)
        for budget in options.budgets
    ]
    for budget, name in zip(options.budgets, names, strict=True):
        if isinstance(budget, Path):
            read = HeadBudgets.load(budget)
            called = name if names.count(name) == 1 else str(budget)
            streams = bool((read.selection == STREAMING).all())
            candidates += [
                fixed(str(read.strategy["name"]), called, read, selection=selection)
                for selection in (() if streams else options.selections) or (None,)
            ]
            continue
        candidates += [
            allocated(runs, budget, strategy=strategy, selection=selection, **options.options)
            for strategy in options.strategies or [STRATEGY]
            for selection in options.selections or [SELECTION]
        ]
    names_of = [(one.strategy, one.selection, one.budget) for one in candidates]
    for strategy, selection, called in names_of:
        if names_of.count((strategy, selection, called)) > 1:
            chosen = strategy if selection == SELECTION else f"{strategy} by {selection}"
            raise UsageError(f"given twice for {chosen}", option="budget", value=called)
    return candidates


def _is_file(budget: str) -> bool:
    """Return whether a budget as typed is the path of a file, rather than sizes."""
    return is_budget_file(Path(budget))


def check_fit(candidates: Sequence[Method], layout: HeadLayout, contexts: Sequence[int]) -> None:
    """Refuse methods that cannot be evaluated together, before anything is run.

    Raises:
        UsageError: a budget is for another model's heads, leaves nothing beyond the window in one
            of the ``contexts``, or is per query head where another is per KV head.
    """
    granularities = set()
    for method in candidates:
        name = f"budget {method.strategy} {method.budget}"
        for tokens in contexts:
            budgets = method.at(CutPoint.whole(layout, tokens=tokens))
            check_same_heads(budgets.layout, layout, names=(name, "the model"))
            granularities.add(budgets.granularity)
    if len(granularities) > 1:
        raise UsageError(
            "budgets per KV head and per query head cannot be evaluated together: "
            "run the command for each"
        )

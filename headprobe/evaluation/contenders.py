"""What is evaluated: budgets, and the baselines that keep as much of the cache as each of them.

uniform (SnapKV, arXiv 2404.14469), pyramid (PyramidKV, arXiv 2406.02069), adaptive (Ada-KV, arXiv
2407.11550, a layer's budget shared out by attention), streaming (StreamingLLM, arXiv 2309.17453)
and the budget itself with its heads shuffled, which is what shuffled scores would give.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from headprobe.allocators import Budget, allocate, parse_budget
from headprobe.budgets import HeadBudgets
from headprobe.errors import UsageError
from headprobe.layout import HeadLayout
from headprobe.mixing import WeightedRun, allocate_runs

SINKS = 4
FLOOR = 0.2
BASELINES = ("uniform", "pyramid", "adaptive", "streaming", "shuffled")


@dataclass(frozen=True, eq=False, kw_only=True)
class Contender:
    """A way to cut the cache, named by its ``strategy`` and the ``budget`` asked for.

    ``at`` gives the entries of every head for a context of so many tokens and the question of that
    id. With a ``floor`` a layer's entries are shared out by attention, and it is the part of its
    own that a head is sure to keep.
    """

    strategy: str
    budget: str
    at: Callable[[int, int], HeadBudgets]
    floor: float | None = None
    is_baseline: bool = False


def fixed(strategy: str, budget: str, budgets: HeadBudgets) -> Contender:
    """A budget as it is, whatever the context."""
    return Contender(strategy=strategy, budget=budget, at=lambda tokens, question: budgets)


def allocated(
    runs: Sequence[WeightedRun],
    budget: Budget,
    *,
    strategy: str = "headkv",
    window: int = 8,
    **options: Any,
) -> Contender:
    """A budget from scores, made for each context: what it is too short for goes to other heads.

    Of a share so small that nothing would be left beyond the window, one entry a head is.
    ``options`` are those of ``allocate_runs``.
    """

    @cache
    def at(tokens: int) -> HeadBudgets:
        return allocate_runs(
            runs,
            strategy=strategy,
            budget=_at_least(budget, tokens, window),
            window=window,
            context_length=tokens,
            **options,
        )

    return Contender(
        strategy=strategy, budget=str(budget.as_given), at=lambda tokens, question: at(tokens)
    )


def with_baselines(entrants: Sequence[Contender], *, seed: int) -> list[Contender]:
    """The entrants of each budget, followed by baselines that keep as much as the first of them.

    A baseline that entered itself is not there twice.
    """
    entered = {entrant.strategy for entrant in entrants}
    lined_up = []
    for name in dict.fromkeys(entrant.budget for entrant in entrants):
        own = [entrant for entrant in entrants if entrant.budget == name]
        others = [one for one in baselines(own[0], seed=seed) if one.strategy not in entered]
        lined_up += [*own, *others]
    return lined_up


def baselines(entrant: Contender, *, seed: int) -> list[Contender]:
    """What keeps as many entries as the entrant in every context, but chooses otherwise."""

    def uniform(tokens: int, question: int) -> HeadBudgets:
        return _as_much("uniform", entrant.at(tokens, question), tokens)

    def pyramid(tokens: int, question: int) -> HeadBudgets:
        return _as_much("pyramid", entrant.at(tokens, question), tokens)

    def streaming(tokens: int, question: int) -> HeadBudgets:
        even = uniform(tokens, question)
        newest = np.full(even.selection.shape, "streaming")
        return replace(even, strategy={"name": "streaming"}, selection=newest, sinks=SINKS)

    def shuffled(tokens: int, question: int) -> HeadBudgets:
        return shuffle(entrant.at(tokens, question), seed=(seed, question))

    ways = (uniform, pyramid, uniform, streaming, shuffled)
    return [
        Contender(
            strategy=name,
            budget=entrant.budget,
            at=way,
            floor=FLOOR if name == "adaptive" else None,
            is_baseline=True,
        )
        for name, way in zip(BASELINES, ways, strict=True)
    ]


def shuffle(budgets: HeadBudgets, *, seed: int | tuple[int, ...]) -> HeadBudgets:
    """The same budgets in another order of the heads, over all layers."""
    order = np.random.default_rng(seed).permutation(budgets.tokens.size)
    matrices = {
        name: getattr(budgets, name).ravel()[order].reshape(budgets.tokens.shape)
        for name in ("tokens", "ratio", "selection")
    }
    return replace(budgets, strategy={**budgets.strategy, "name": "shuffled"}, **matrices)


def line_up(
    budgets: Sequence[str],
    runs: Sequence[WeightedRun],
    *,
    strategies: Sequence[str],
    **options: Any,
) -> list[Contender]:
    """Contenders as typed: ``128``, ``1.5%``, several with commas, or a budget file's path.

    Sizes are divided by each of the ``strategies`` from the scores of the ``runs``; ``options`` are
    those of ``allocated``.

    Raises:
        UsageError: a text is no budget, is given twice, or there is no such file.
        HeadprobeError: a budget file is damaged.
    """
    entrants = []
    for text in budgets:
        if text.endswith(".json"):
            read = HeadBudgets.load(Path(text))
            entrants.append(fixed(str(read.strategy["name"]), Path(text).stem, read))
            continue
        for size in map(parse_budget, text.split(",")):
            entrants += [allocated(runs, size, strategy=name, **options) for name in strategies]
    names = [(entrant.strategy, entrant.budget) for entrant in entrants]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--budget {name[1]} ({name[0]}) is given twice")
    return entrants


def check_fit(entrants: Sequence[Contender], layout: HeadLayout, contexts: Sequence[int]) -> None:
    """Refuse what cannot be evaluated together, before anything is run.

    Raises:
        UsageError: a budget is for another model's heads, leaves nothing beyond the window in one
            of the ``contexts``, or is per query head where another is per KV head.
    """
    shape = layout.layers, layout.heads, layout.kv_heads
    granularities = set()
    for contender in entrants:
        for tokens in contexts:
            budgets = contender.at(tokens, 0)
            own = budgets.layout
            if (own.layers, own.heads, own.kv_heads) != shape:
                raise UsageError(
                    f"{contender.strategy} {contender.budget} is for {own.id}, with {own.layers} "
                    f"layers of {own.heads} heads; {layout.id} has {layout.layers} of "
                    f"{layout.heads}: give --scores or budgets of that model"
                )
            granularities.add(budgets.granularity)
    if len(granularities) > 1:
        raise UsageError(
            "budgets per KV head and per query head cannot be evaluated together: "
            "run the command for each"
        )


def _as_much(strategy: str, other: HeadBudgets, tokens: int) -> HeadBudgets:
    """A strategy that looks at no score, with the entries of another budget."""
    share = min(1.0, other.footprint(tokens).share)
    return allocate(
        np.zeros((other.layout.layers, other.layout.heads)),
        other.layout,
        strategy=strategy,
        budget=_at_least(Budget(share=share), tokens, other.window),
        window=other.window,
        granularity=other.granularity,
        context_length=tokens,
    )


def _at_least(budget: Budget, tokens: int, window: int) -> Budget:
    """The budget, or of a share no less than one entry beyond the window."""
    if budget.share is None:
        return budget
    return Budget(share=min(1.0, max(budget.share, (window + 1) / tokens)))

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
from jaxtyping import Bool, Int

from headprobe.allocators import Budget, allocate, parse_budget
from headprobe.allocators.mixing import WeightedRun, allocate_runs
from headprobe.allocators.rounding import round_to_total, water_fill
from headprobe.budgets import HeadBudgets, budget_shape, is_budget_file
from headprobe.errors import UsageError
from headprobe.models.layout import HeadLayout

SINKS = 4
FLOOR = 0.2
BASELINES = ("uniform", "pyramid", "adaptive", "streaming", "shuffled")


@dataclass(frozen=True, eq=False, kw_only=True)
class Moment:
    """When a cache is cut: after so many ``tokens`` of the question of that id.

    ``room`` is the entries that a head of each layer can hold then: all the tokens, those inside a
    sliding window, or none in a layer that caches no keys.
    """

    tokens: int
    question_id: int
    room: Int[np.ndarray, " layer"]

    @classmethod
    def whole(cls, layout: HeadLayout, *, tokens: int) -> Moment:
        """One of a model all of whose layers hold every token."""
        return cls(tokens=tokens, question_id=0, room=np.full(layout.layers, tokens))


@dataclass(frozen=True, eq=False, kw_only=True)
class Contender:
    """A way to cut the cache, named by its ``strategy`` and the ``budget`` asked for.

    ``at`` gives the entries of every head; the attention of the ``window`` newest tokens chooses
    them. With a ``floor`` a layer's entries are shared out by attention, and it is the part of its
    own that a head is sure to keep.
    """

    strategy: str
    budget: str
    window: int
    at: Callable[[Moment], HeadBudgets]
    floor: float | None = None
    is_baseline: bool = False


def everything(layout: HeadLayout, *, granularity: str = "kv", window: int = 0) -> HeadBudgets:
    """A budget that cuts nothing away."""
    shape = budget_shape(layout, granularity)
    return HeadBudgets(
        layout=layout,
        strategy={"name": "full"},
        granularity=granularity,
        window=window,
        sinks=0,
        compensation=False,
        selection=np.full(shape, "attention"),
        tokens=np.zeros(shape, dtype=np.int64),
        ratio=np.ones(shape),
    )


def fixed(strategy: str, budget: str, budgets: HeadBudgets) -> Contender:
    """A budget as it is, whatever the context."""
    return Contender(
        strategy=strategy, budget=budget, window=budgets.window, at=lambda moment: budgets
    )


def allocated(
    runs: Sequence[WeightedRun],
    budget: Budget,
    *,
    strategy: str = "headkv",
    window: int = 8,
    granularity: str = "kv",
    **options: Any,
) -> Contender:
    """A budget from scores, made for each context: what it is too short for goes to other heads.

    Of a share so small that nothing would be left beyond the window, one entry a head is; a context
    no longer than the window is kept whole. ``options`` are those of ``allocate_runs``.
    """

    @cache
    def at(tokens: int) -> HeadBudgets:
        if tokens <= window:
            return everything(runs[0].scores.layout, granularity=granularity, window=window)
        size = budget
        if size.share is not None:
            size = Budget(share=max(size.share, (window + 1) / tokens))
        return allocate_runs(
            runs,
            strategy=strategy,
            budget=size,
            window=window,
            granularity=granularity,
            context_length=tokens,
            **options,
        )

    return Contender(
        strategy=strategy,
        budget=str(budget.as_given),
        window=window,
        at=lambda moment: at(moment.tokens),
    )


def with_baselines(entrants: Sequence[Contender], *, seed: int) -> list[Contender]:
    """The entrants of each budget, followed by baselines that keep as much as the first of them.

    A baseline that entered with the same budget is not there twice.
    """
    lined_up = []
    for name in dict.fromkeys(entrant.budget for entrant in entrants):
        own = [entrant for entrant in entrants if entrant.budget == name]
        entered = {entrant.strategy for entrant in own}
        others = [one for one in baselines(own[0], seed=seed) if one.strategy not in entered]
        lined_up += [*own, *others]
    return lined_up


def baselines(entrant: Contender, *, seed: int) -> list[Contender]:
    """What keeps as many entries as the entrant in every context, but chooses otherwise."""

    def uniform(moment: Moment) -> HeadBudgets:
        return _as_much("uniform", entrant.at(moment), moment.room)

    def pyramid(moment: Moment) -> HeadBudgets:
        return _as_much("pyramid", entrant.at(moment), moment.room)

    def streaming(moment: Moment) -> HeadBudgets:
        even = uniform(moment)
        newest = np.full(even.selection.shape, "streaming")
        return replace(even, strategy={"name": "streaming"}, selection=newest, sinks=SINKS)

    def shuffled(moment: Moment) -> HeadBudgets:
        own = entrant.at(moment)
        return shuffle(own, room=moment.room, seed=(seed, moment.question_id))

    ways = (uniform, pyramid, uniform, streaming, shuffled)
    return [
        Contender(
            strategy=name,
            budget=entrant.budget,
            window=entrant.window,
            at=way,
            floor=FLOOR if name == "adaptive" else None,
            is_baseline=True,
        )
        for name, way in zip(BASELINES, ways, strict=True)
    ]


def shuffle(
    budgets: HeadBudgets, *, room: Int[np.ndarray, " layer"], seed: int | tuple[int, ...]
) -> HeadBudgets:
    """The same entries in another order of the heads, over all layers that can hold any.

    What a head has no ``room`` for goes to the others.
    """
    own = _held(budgets, room)
    holds = _holding(own, room)
    order = np.random.default_rng(seed).permutation(np.count_nonzero(holds))
    tokens, selection = own.copy(), budgets.selection.copy()
    tokens[holds], selection[holds] = own[holds][order], budgets.selection[holds][order]
    return replace(
        budgets,
        strategy={**budgets.strategy, "name": "shuffled"},
        selection=selection,
        tokens=_fill(tokens, room, total=int(own.sum())),
        ratio=np.zeros(own.shape),
    )


def line_up(
    budgets: Sequence[str],
    runs: Sequence[WeightedRun],
    *,
    strategies: Sequence[str],
    **options: Any,
) -> list[Contender]:
    """Contenders as typed: ``128``, ``1.5%``, several with commas, or a budget file's path.

    Sizes are divided by each of the ``strategies`` from the scores of the ``runs``; ``options`` are
    those of ``allocated``. A file's budget is called as the file, two alike by their paths.

    Raises:
        UsageError: a text is no budget, is given twice, or there is no such file.
        HeadprobeError: a budget file is damaged.
    """
    entrants = []
    typed = split_budgets(budgets)
    stems = [Path(text).stem for text in typed if is_file(text)]
    for text in typed:
        if is_file(text):
            read, stem = HeadBudgets.load(Path(text)), Path(text).stem
            name = stem if [*stems, *typed].count(stem) == 1 else text
            entrants.append(fixed(str(read.strategy["name"]), name, read))
            continue
        size = parse_budget(text)
        entrants += [allocated(runs, size, strategy=name, **options) for name in strategies]
    pairs = [(entrant.strategy, entrant.budget) for entrant in entrants]
    for strategy, budget in pairs:
        if pairs.count((strategy, budget)) > 1:
            raise UsageError(f"--budget {budget} ({strategy}) is given twice")
    return entrants


def split_budgets(typed: Sequence[str]) -> list[str]:
    """Budgets one by one: of a text with commas its parts, unless it is a file's path."""
    texts = [[text] if is_file(text) and Path(text).exists() else text.split(",") for text in typed]
    return [part.strip() for text in texts for part in text]


def is_file(budget: str) -> bool:
    """Whether a budget as typed is the path of a file, rather than sizes."""
    return is_budget_file(Path(budget))


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
            budgets = contender.at(Moment.whole(layout, tokens=tokens))
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


def _as_much(strategy: str, other: HeadBudgets, room: Int[np.ndarray, " layer"]) -> HeadBudgets:
    """A strategy that looks at no score, with the entries of another budget.

    It divides them among the layers that can hold any.
    """
    held = _held(other, room)
    holds = _holding(held, room)
    total = int(held.sum())
    if other.compensation:
        total = min(total + int((held < room[:, None]).sum()), int(room @ holds.sum(axis=1)))
    tokens = np.zeros(held.shape, dtype=np.int64)
    if total:
        layers = np.flatnonzero(room)
        mean = total / np.count_nonzero(holds)
        tokens[layers] = allocate(
            np.zeros((layers.size, other.layout.heads)),
            replace(other.layout, layers=layers.size),
            strategy=strategy,
            budget=Budget(share=mean / room.max()),
            # Of less than that, the window is no floor.
            window=other.window if mean > other.window else 0,
            granularity=other.granularity,
            context_length=int(room.max()),
        ).tokens
    return HeadBudgets(
        layout=other.layout,
        strategy={"name": strategy},
        granularity=other.granularity,
        window=other.window,
        sinks=0,
        compensation=False,
        selection=np.full(tokens.shape, "attention"),
        tokens=_fill(tokens, room, total=total),
        ratio=np.zeros(tokens.shape),
    )


def _held(budgets: HeadBudgets, room: Int[np.ndarray, " layer"]) -> Int[np.ndarray, "layer head"]:
    """Entries that every head keeps, the compensation's not counted."""
    kept = {tokens: budgets.kept(tokens) for tokens in set(room.tolist())}
    return np.stack([kept[tokens][layer] for layer, tokens in enumerate(room.tolist())])


def _holding(
    entries: Int[np.ndarray, "layer head"], room: Int[np.ndarray, " layer"]
) -> Bool[np.ndarray, "layer head"]:
    """The heads that can hold any."""
    return np.broadcast_to(room[:, None] > 0, entries.shape)


def _fill(
    tokens: Int[np.ndarray, "layer head"], room: Int[np.ndarray, " layer"], *, total: int
) -> Int[np.ndarray, "layer head"]:
    """Entries with a sum, no head above its room: what one has no room for goes to the others."""
    wanted = tokens.astype(np.float64)
    cap = np.broadcast_to(room[:, None], tokens.shape).astype(np.float64)
    return round_to_total(
        water_fill(wanted, wanted, total=float(total), cap=cap), total=total, ties=tokens
    )

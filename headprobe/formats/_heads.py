"""Helpers of formats: scores made fit for a reader, and masks of heads that are kept whole."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from headprobe.allocators._reduction import rankable_scores, refuse_zeros
from headprobe.budgets import HeadBudgets
from headprobe.errors import HeadprobeError, UsageError
from headprobe.scores import HeadScores
from headprobe.stats.ranks import top_heads

# DuoAttention's reader adds up to 1e-6 of unseeded noise to break ties.
GAP = 1e-5
FULL, STREAMING = (0.6, 1.0), (0.0, 0.4)


@dataclass(frozen=True, eq=False, kw_only=True)
class HeadMask:
    """KV heads that keep everything; others keep ``sinks`` first and ``recent`` newest entries."""

    full: Bool[np.ndarray, "layer kv_head"]
    sinks: int
    recent: int
    notes: tuple[str, ...] = ()

    @property
    def sparsity(self) -> float:
        """The fraction of the heads that stream, from 0 to 1."""
        return 1 - float(self.full.mean())


def kv_scores(run: HeadScores, measure: str, reduce: str) -> Float[np.ndarray, "layer kv_head"]:
    """Reduce a run's scores to KV heads as strategies do; errors are ``rankable_scores``'s."""
    refuse_zeros(mean := run.mean(measure), measure=measure)
    return rankable_scores(mean, group=run.layout.group_size, reduce=reduce)


def not_negative(
    scores: Float[np.ndarray, "layer head"], measure: str
) -> tuple[Float[np.ndarray, "layer head"], tuple[str, ...]]:
    """Shift all scores up to 0 or more where some are negative; return a note on it too.

    Raises:
        HeadprobeError: all scores are the same negative number.
    """
    lowest = float(scores.min())
    if lowest >= 0:
        return scores, ()
    shifted = scores - lowest
    refuse_zeros(shifted, measure=f"{measure} (less the lowest)")
    return shifted, (f"{measure} has negative scores: all were shifted up by {-lowest:g}",)


def group_note(run: HeadScores, reduce: str) -> tuple[str, ...]:
    """Say how the scores of query heads were reduced to scores of KV heads."""
    if run.layout.group_size == 1:
        return ()
    return (f"the {run.layout.group_size} query heads of a KV head were reduced by {reduce}",)


def mask_of_scores(
    scores: Float[np.ndarray, "layer kv_head"], *, sparsity: float, sinks: int, recent: int
) -> HeadMask:
    """Keep the highest heads whole, and let the fraction ``sparsity`` of all heads stream.

    Raises:
        UsageError: ``sparsity`` lies outside 0 to 1, or a number of entries is out of range.
    """
    if not 0 <= sparsity <= 1:
        raise UsageError("expected 0 to 1", option="sparsity", value=sparsity)
    for option, count, least in (("sinks", sinks, 0), ("recent", recent, 1)):
        if count < least:
            raise UsageError(f"expected {least} or more", option=option, value=count)
    full = top_heads(scores, scores.size - round(sparsity * scores.size))
    note = f"{int(full.sum())} of {full.size} KV heads are kept whole"
    return HeadMask(full=full, sinks=sinks, recent=recent, notes=(note,))


def mask_of_budget(budgets: HeadBudgets) -> HeadMask:
    """Find the heads that a budget keeps whole, and what its streaming heads keep.

    Raises:
        UsageError: the budget is per query head, or its other heads do not all stream alike.
    """
    require_kv(budgets)
    full = budgets.ratio >= 1
    rest = ~full
    unfit = rest & ((budgets.selection != "streaming") | (budgets.tokens <= budgets.sinks))
    kept = np.unique(budgets.tokens[rest])
    if unfit.any() or kept.size > 1:
        layer, head = np.argwhere(unfit if unfit.any() else rest)[0]
        raise UsageError(
            "this format keeps a head whole or lets it stream, all streaming heads alike, and the "
            f"budget does not (layer {layer}, head {head}: {budgets.tokens[layer, head]} entries "
            f"by {budgets.selection[layer, head]}); allocate with a strategy that does, such as "
            "duo, or export scores"
        )
    notes: tuple[str, ...] = ()
    if fraction := budgets.ratio[rest].max(initial=0.0):
        notes = (
            f"streaming heads keep {kept[0]} entries: that they keep {fraction:.0%} of a longer "
            "context cannot be said in this format",
        )
    if budgets.compensation:
        notes += ("whether an entry stands for what is dropped is up to the program",)
    return HeadMask(
        full=full,
        sinks=budgets.sinks,
        recent=int(kept[0]) - budgets.sinks if kept.size else max(1, budgets.window),
        notes=notes,
    )


def gates(
    scores: Float[np.ndarray, "layer kv_head"], full: Bool[np.ndarray, "layer kv_head"]
) -> Float[np.ndarray, "layer kv_head"]:
    """Turn scores into gates from 0 to 1 of the same order: whole heads from 0.6, others to 0.4.

    No two gates are closer than ``GAP``. Scores that lie in these bounds already are only moved
    apart.
    """
    values = np.empty(scores.shape)
    values[full] = spread(scores[full], *FULL)
    values[~full] = spread(scores[~full], *STREAMING)
    return values


def spread(
    scores: Float[np.ndarray, " head"], low: float, high: float
) -> Float[np.ndarray, " head"]:
    """Move scores between ``low`` and ``high``, ``GAP`` apart or more.

    Of equal scores the first head's becomes the highest. All scores are scaled if some lie outside
    ``low`` to ``high``.
    """
    if not scores.size:
        return scores
    # Before scaling, which could make close scores equal.
    order = np.lexsort((-np.arange(scores.size), scores))
    first, last = scores.min(), scores.max()
    if first < low or last > high:
        scores = low + (scores - first) / ((last - first) or 1.0) * (high - low)
    steps = GAP * np.arange(scores.size)
    rising = np.maximum.accumulate(scores[order] - steps) + steps
    values: Float[np.ndarray, " head"] = np.empty(scores.size)
    values[order] = np.minimum(rising, high - steps[::-1])
    return values


def tie_note(scores: Float[np.ndarray, "layer kv_head"]) -> tuple[str, ...]:
    """Say how equal scores were set apart."""
    equal = scores.size - np.unique(scores).size
    return (f"{equal} equal scores were set {GAP:g} apart, first heads first",) if equal else ()


def amounts(budgets: HeadBudgets, context_length: int | None) -> Float[np.ndarray, "layer kv_head"]:
    """Return how many entries every KV head keeps, of ``context_length`` tokens where that matters.

    Raises:
        UsageError: the budget is per query head, or holds fractions of a context of unknown length.
    """
    require_kv(budgets)
    if context_length is not None and context_length < 1:
        raise UsageError("expected 1 or more", option="context_length", value=context_length)
    if budgets.ratio.any() and context_length is None:
        raise UsageError(
            "the budget holds fractions of the context: say of how many tokens",
            option="context_length",
        )
    kept = budgets.tokens if context_length is None else budgets.kept(context_length)
    if not kept.any():
        raise HeadprobeError("the budget keeps nothing, so it has no fractions; allocate again")
    return kept.astype(np.float64)


def selection_note(budgets: HeadBudgets) -> tuple[str, ...]:
    """Say that a file leaves it to the program which entries a head keeps."""
    others = sorted(set(budgets.selection.ravel().tolist()) - {"attention", "streaming"})
    if not others:
        return ()
    return (f"the file says how many entries a head keeps; by {', '.join(others)} is not in it",)


def require_kv(budgets: HeadBudgets) -> None:
    """Refuse a budget per query head where a reader takes one per KV head.

    Raises:
        UsageError: the budget is per query head.
    """
    if budgets.granularity != "kv":
        raise UsageError(
            "this format holds a value a KV head and the budget one a query head; "
            "allocate again with `granularity=kv`"
        )

"""kvpress: the budget curve of its ``LUKVPress``, and ``HeadBudgetPress`` for any budget.

The curve (LU-KV, arXiv 2602.08585) is an ``.npy`` array ``[99, layers, KV heads]``: the fraction
of its cache that a head loses when 1 %, 2 %, ... 99 % of the whole cache are dropped. ``LUKVPress``
rounds within each layer and leaves every head an entry; it counts its sinks and its window among
what is kept. ``HeadBudgetPress`` lies in ``_press``, which needs kvpress and torch, and is imported
when asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from headprobe.allocators._pool import BudgetSize
from headprobe.allocators._rounding import water_fill
from headprobe.allocators.headkv import headkv
from headprobe.allocators.mixing import WeightedRun, allocate_runs
from headprobe.budgets import HeadBudgets
from headprobe.errors import HeadprobeError, UsageError
from headprobe.files import atomic_write
from headprobe.formats._format import Format
from headprobe.formats._heads import amounts, group_note, kv_scores, not_negative, selection_note
from headprobe.scores import HeadScores

if TYPE_CHECKING:
    from headprobe.formats._press import HeadBudgetPress as HeadBudgetPress

KEPT = 1 - np.arange(1, 100) / 100


def __getattr__(name: str) -> Any:
    if name != "HeadBudgetPress":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from headprobe.formats._press import HeadBudgetPress
    except ImportError as error:
        raise HeadprobeError(
            f"HeadBudgetPress needs kvpress: pip install kvpress ({error})"
        ) from error
    return HeadBudgetPress


def write_scores(
    run: HeadScores,
    path: Path,
    *,
    measure: str,
    reduce: str = "mean",
    beta: float = 1.2,
    strategy: Literal["headkv", "utility"] = "headkv",
    setting: Literal["query_aware", "query_agnostic"] = "query_aware",
) -> tuple[str, ...]:
    """Write the curve that HeadKV's or LU-KV's rule gives at each compression, its total exact.

    Raises:
        UsageError: an option is out of range, the run holds no utility, or the file is not called
            ``.npy``.
        HeadprobeError: all scores are zero, or the file cannot be written.
    """
    if strategy == "utility":
        runs = [WeightedRun(name=run.layout.id, scores=run)]
        sizes = [BudgetSize(fraction=float(kept)) for kept in KEPT]
        options: dict[str, Any] = {"strategy": strategy, "window": 0, "setting": setting}
        _write(np.stack([allocate_runs(runs, budget=one, **options).ratio for one in sizes]), path)
        return ()
    scores, notes = not_negative(kv_scores(run, measure, reduce), measure)
    fractions = [
        headkv(scores, group=1, window=0, budget=BudgetSize(fraction=float(kept)), beta=beta).ratio
        for kept in KEPT
    ]
    _write(np.stack(fractions), path)
    return group_note(run, reduce) + notes


def write_budget(
    budgets: HeadBudgets, path: Path, *, context_length: int | None = None
) -> tuple[str, ...]:
    """Write the curve that keeps the budget's proportions at each compression.

    No head keeps more than its whole cache; what it cannot use goes to the other heads in
    proportion.

    Raises:
        UsageError: the budget is per query head, or holds fractions and no context length is given;
            or the file is not called ``.npy``.
        HeadprobeError: the file cannot be written.
    """
    kept = amounts(budgets, context_length)
    none = np.zeros(kept.shape)
    fractions = [
        water_fill(none, kept, total=float(fraction * kept.size), cap=1.0) for fraction in KEPT
    ]
    _write(np.stack(fractions), path)
    notes = selection_note(budgets)
    if context_length is None:
        return notes
    ratio = 1 - budgets.fraction(context_length)
    return (f"of {context_length} tokens it is the budget at compression_ratio {ratio:.2f}", *notes)


def _write(fractions: Float[np.ndarray, "compression layer kv_head"], path: Path) -> None:
    if path.suffix != ".npy":
        raise UsageError(f"the curve is an .npy file; {path.name} is not called so")
    pruned = np.clip(1 - fractions, 0, 1).astype(np.float32)
    with atomic_write(path) as whole:
        np.save(whole, pruned, allow_pickle=False)


FORMAT = Format(
    summary="a budget curve over compression ratios",
    file=".npy",
    programs="kvpress (LUKVPress)",
    write_scores=write_scores,
    write_budget=write_budget,
)

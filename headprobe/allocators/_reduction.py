"""Check scores of query heads, and reduce them to one score for each head of a budget."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from headprobe.errors import HeadprobeError, UsageError

REDUCTIONS: dict[str, Callable[..., Any]] = {"mean": np.mean, "max": np.max, "sum": np.sum}
_ADVICE = "score again, or allocate by another measure"


def usable_scores(
    scores: Float[np.ndarray, "layer query_head"], *, group: int, reduce: str
) -> Float[np.ndarray, "layer head"]:
    """Check scores, and reduce each ``group`` of neighbouring query heads to one, in float64.

    Raises:
        UsageError: there is no such reduction.
        HeadprobeError: a score is negative or not finite, or all are zero.
    """
    heads = rankable_scores(scores, group=group, reduce=reduce)
    advice = "use `strategy=top` or `strategy=duo`, which only compare heads, or another `measure`"
    _refuse(scores, scores < 0, f"negative, and a budget cannot be; {advice}")
    return heads


def rankable_scores(
    scores: Float[np.ndarray, "layer query_head"], *, group: int, reduce: str
) -> Float[np.ndarray, "layer head"]:
    """Check and reduce scores as ``usable_scores`` does, but let negative scores pass.

    Strategies that only compare heads can use negative scores.

    Raises:
        UsageError: there is no such reduction.
        HeadprobeError: a score is not finite, or all are zero.
    """
    if reduce not in REDUCTIONS:
        message = f"expected one of {', '.join(REDUCTIONS)}"
        raise UsageError(message, option="reduce", value=reduce)
    _refuse(scores, ~np.isfinite(scores), f"not a finite number; {_ADVICE}")
    layers, heads = scores.shape
    groups = scores.astype(np.float64).reshape(layers, heads // group, group)
    reduced: Float[np.ndarray, "layer head"] = REDUCTIONS[reduce](groups, axis=-1)
    refuse_zeros(scores)
    return reduced


def refuse_zeros(scores: Float[np.ndarray, "layer head"], *, measure: str = "") -> None:
    """Refuse scores that are all zero: they rank nothing, and their sum divides nothing.

    Raises:
        HeadprobeError: all scores are zero.
    """
    if not scores.any():
        named = f"{measure} scores" if measure else "scores"
        raise HeadprobeError(
            f"all {named} are zero, so no head can be told from another; "
            "score more or easier cases, or take another `measure`"
        )


def _refuse(
    scores: Float[np.ndarray, "layer query_head"],
    wrong: Bool[np.ndarray, "layer query_head"],
    problem: str,
) -> None:
    if wrong.any():
        layer, head = np.argwhere(wrong)[0]
        raise HeadprobeError(
            f"the scores cannot be used: {wrong.sum()} of {wrong.size} are bad, first layer "
            f"{layer}, head {head}: {scores[layer, head]:g} is {problem}"
        )

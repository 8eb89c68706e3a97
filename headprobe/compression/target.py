"""The target of a compression: a budget, which heads may divide anew by what entries are worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from headprobe.budgets import HeadBudgets
from headprobe.compression.layer_view import REDUCTIONS
from headprobe.errors import HeadprobeError

Across = Literal["layer", "model"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Target:
    """The budget that a cache is compressed to.

    With a ``floor``, 0 to 1, what heads keep between them is divided by what their entries are
    worth to the budget's selection, prompt by prompt, and every head keeps at least that fraction
    of its own entries. A layer's heads share with each other, or ``across`` the model those of all
    layers but the ones whose sliding window holds fewer tokens.

    Raises:
        ValueError: the floor is not from 0 to 1, or missing where heads share across the model;
            or heads that share select differently or the newest entries.
    """

    budgets: HeadBudgets
    floor: float | None = None
    across: Across = "layer"

    def __post_init__(self) -> None:
        if self.floor is None:
            if self.across == "model":
                raise ValueError("expected a floor where heads share across the model, got None")
            return
        if not 0 <= self.floor <= 1:
            raise ValueError(f"expected a floor from 0 to 1, got {self.floor}")
        names = np.unique(self.budgets.selection).tolist()
        if len(names) > 1 or names == ["streaming"]:
            raise ValueError(
                f"expected heads that share to choose entries by one selection, got {names}"
            )

    @property
    def shared_rule(self) -> Rule:
        """The rule by which heads that share rank their entries."""
        return Rule.of(self, str(self.budgets.selection.flat[0]))


class Rule(NamedTuple):
    """The settings of a budget that a ranking of entries depends on."""

    window: int
    sinks: int
    reduction: str
    selection: str

    @classmethod
    def of(cls, target: Target, selection: str) -> Rule:
        """Return the rule of a target's heads that have this selection."""
        budgets = target.budgets
        return cls(budgets.window, budgets.sinks, reduction_of(target), selection)


def reduction_of(target: Target) -> str:
    """Return the reduction by which the query heads that share a KV head choose together.

    Raises:
        HeadprobeError: the budget names a reduction that is not known.
    """
    name = str(target.budgets.strategy.get("reduce") or "mean")
    if name not in REDUCTIONS:
        known = ", ".join(REDUCTIONS)
        raise HeadprobeError(f"the budget reduces scores by {name!r}; known are {known}")
    return name

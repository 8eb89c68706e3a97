"""The record of a strategy: a rule that turns scores into a budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import Parameter

from headprobe.allocators._allocation import Allocation
from headprobe.registry import declared_options

GIVEN = ("group", "window", "measured", "curves")
"""Parameters of ``allocate`` that are no options of the strategy's."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Strategy:
    """A rule that turns scores into a budget.

    Args:
        summary: one line for ``headprobe list strategies``.
        allocate: ``(scores, *, group, window, **options) -> Allocation``, from a score for every
            query head, ``group`` of which share one head of the budget. Its other keyword-only
            parameters are the strategy's options: one without a default must be given, and all are
            recorded in the budget. A parameter ``measured`` gets the scores of ``reads``.
        reads: names of the measures that the strategy reads; empty where it takes the measure that
            the user chooses.
        reads_curves: whether ``allocate`` has a parameter ``curves``, for the run's utility curves.
        in_own_unit: whether the strategy compares scores with a number in the measure's own unit,
            so that mixed scores make no sense to it.
    """

    summary: str
    allocate: Callable[..., Allocation]
    reads: tuple[str, ...] = ()
    reads_curves: bool = False
    in_own_unit: bool = False

    @property
    def options(self) -> dict[str, Parameter]:
        """The options that ``allocate`` declares, by name."""
        return declared_options(self.allocate, GIVEN)

"""The entries that a strategy divides: the budget as asked for, and its total over all heads."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal

from headprobe.budgets import MAX_TOKENS
from headprobe.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class BudgetSize:
    """Cache entries a head on average: a number of ``tokens``, or a ``fraction`` of the context.

    Exactly one of the two is given. ``tokens`` is 1 or more, ``fraction`` above 0 and at most 1.
    """

    tokens: int | None = None
    fraction: float | None = None

    def __post_init__(self) -> None:
        if (self.tokens is None) == (self.fraction is None):
            raise ValueError("expected either tokens or a fraction of the context")
        if self.tokens is not None and not 1 <= self.tokens <= MAX_TOKENS:
            message = f"expected 1 to {MAX_TOKENS} tokens"
            raise UsageError(message, option="budget", value=self.tokens)
        if self.fraction is not None and not 0 < self.fraction <= 1:
            message = "expected above 0 % and at most 100 %"
            raise UsageError(message, option="budget", value=f"{100 * self.fraction:g}%")

    @property
    def as_given(self) -> int | str:
        """The budget as the user gave it: 128, or ``1.5%``."""
        return f"{100 * self.fraction:.12g}%" if self.fraction is not None else self.tokens or 0

    def in_tokens(self) -> int:
        """Return the number of tokens.

        Raises:
            UsageError: the budget is a fraction of the context.
        """
        if self.tokens is None:
            raise UsageError(
                f"takes a budget in tokens, not {self.as_given}: leave it out, or give `budget` "
                "a number",
                option="rounding",
                value="reference",
            )
        return self.tokens

    def pool(self, heads: int, *, window: int, context_length: int | None) -> BudgetPool:
        """Work out what ``heads`` heads divide, each holding its ``window`` newest entries.

        Raises:
            UsageError: nothing is left beyond the window, or the context length is no length.
        """
        if context_length is not None and not 1 <= context_length <= MAX_TOKENS:
            message = f"expected 1 to {MAX_TOKENS}"
            raise UsageError(message, option="context_length", value=context_length)
        if self.fraction is not None and context_length is None:
            return BudgetPool(
                mean=self.fraction, total=self.fraction * heads, floor=0.0, cap=1.0, entries=False
            )
        cap = float(MAX_TOKENS if context_length is None else context_length)
        mean = float(self.tokens or 0) if self.fraction is None else self.fraction * cap
        if mean <= window:
            raise UsageError(
                f"{mean:g} entries a head leave nothing beyond the window of {window}; "
                "give more, or a smaller `window`",
                option="budget",
            )
        total = min(float(round(mean * heads)), cap * heads)
        floor = min(float(window), cap)
        return BudgetPool(mean=total / heads, total=total, floor=floor, cap=cap, entries=True)


USUAL = BudgetSize(tokens=128)
"""The budget of a head where none is given, and in most tables of the papers."""


@dataclass(frozen=True, kw_only=True)
class BudgetPool:
    """Cache entries to divide among heads, or fractions of a context of any length.

    All fields count entries where ``entries`` is set, else fractions from 0 to 1: ``total`` over
    all heads, ``mean`` a head, at least ``floor`` and at most ``cap`` to each.
    """

    mean: float
    total: float
    floor: float
    cap: float
    entries: bool


def parse_budget(text: str) -> BudgetSize:
    """Read ``128`` (tokens a head) or ``1.5%`` (fraction of the context).

    Raises:
        UsageError: ``text`` is neither, or is out of range.
    """
    text = text.strip()
    if re.fullmatch(r"\d+", text, re.ASCII):
        return BudgetSize(tokens=int(text))
    if re.fullmatch(r"(\d+\.?\d*|\.\d+) ?%", text, re.ASCII):
        return BudgetSize(fraction=float(Decimal(text.rstrip(" %")) / 100))
    raise UsageError(
        "expected tokens a head (128) or a fraction of the context (1.5%)",
        option="budget",
        value=text,
    )

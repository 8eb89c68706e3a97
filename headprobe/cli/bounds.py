"""Bound the numbers that options take."""

from __future__ import annotations

from collections.abc import Callable
from inspect import unwrap
from typing import Any, get_args, get_type_hints

from headprobe.errors import UsageError

LARGEST = 2**31 - 1
"""The largest number that an option takes: more than any count of tokens, cases or heads."""


def bounded(command: Callable[..., None]) -> Callable[..., None]:
    """Let all numbers among a command's options be finite and at most ``LARGEST``."""
    hints = get_type_hints(command, include_extras=True)
    for name, hint in hints.items():
        kinds = {getattr(hint, "__origin__", None), *get_args(getattr(hint, "__origin__", None))}
        for option in getattr(hint, "__metadata__", ()) if kinds & {int, float} else ():
            option.callback = option.callback or _within_bounds(name)
    unwrap(command).__annotations__ = hints
    return command


def _within_bounds(name: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if value is not None and not -LARGEST <= value <= LARGEST:
            message = f"expected a number up to {LARGEST:,}"
            raise UsageError(message, option=name, value=value)
        return value

    return check

"""Methods by name: the project's own, and those that installed packages bring as entry points."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, TypeVar

from headprobe.errors import HeadprobeError, UsageError

Method = TypeVar("Method")


def method_names(own: Mapping[str, object], group: str) -> list[str]:
    """All names: ours in their order, then those of the entry-point group."""
    return list(dict.fromkeys([*own, *sorted(entry_points(group=group).names)]))


def get_method(kind: str, name: str, own: Mapping[str, Method], group: str) -> Method:
    """The method of that name; ours come before those of the entry-point group.

    Raises:
        UsageError: there is none; the message lists the choices.
        HeadprobeError: the package that brings it cannot be loaded.
    """
    if name in own:
        return own[name]
    for entry in entry_points(group=group, name=name):
        try:
            found: Method = entry.load()
        except (ImportError, AttributeError) as error:
            raise HeadprobeError(
                f"cannot load {kind} {name!r} from {entry.value}: {error}; "
                "mend or remove the package that brings it"
            ) from error
        return found
    choices = ", ".join(method_names(own, group))
    raise UsageError(f"no {kind} {name!r}; choose from {choices}", value=name)


def given_options(
    method: str,
    function: Callable[..., object],
    given: Mapping[str, Any],
    *,
    hidden: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Of the options that are given (not None) all, if the function takes them.

    Its options are its keyword-only parameters but for those that are ``hidden`` from users.
    ``method`` names it, as in "format duo".

    Raises:
        UsageError: it does not take one; the message lists what it takes.
    """
    own = [
        option
        for option, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and option not in hidden
    ]
    chosen = {option: value for option, value in given.items() if value is not None}
    for option in chosen:
        if option not in own:
            known = ", ".join(f"`{name}`" for name in own) or "none"
            message = f"{method} takes no such option; it takes {known}"
            raise UsageError(message, option=option)
    return chosen


def flag(option: str) -> str:
    """An option as it is typed: ``context_length`` as ``--context-length``."""
    return f"--{option.replace('_', '-')}"

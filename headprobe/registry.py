"""Find methods by name: the project's own, and the entry points of installed packages."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, TypeVar

from headprobe.errors import HeadprobeError, UsageError

Method = TypeVar("Method")


def method_names(own: Mapping[str, object], group: str) -> list[str]:
    """List all method names: the project's in their order, then the entry-point group's."""
    return list(dict.fromkeys([*own, *sorted(entry_points(group=group).names)]))


def get_method(kind: str, name: str, own: Mapping[str, Method], group: str) -> Method:
    """Return the method called ``name``; the project's own come before entry points.

    Args:
        kind: the word for such a method in errors, as in "format".
        name: the method's name.
        own: the project's methods by name.
        group: the entry-point group of third-party methods.

    Raises:
        UsageError: no method has this name; the message lists the choices.
        HeadprobeError: the package that provides the method cannot be loaded.
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
    """Return the options that are given (not ``None``), all of which a method must take.

    Args:
        method: the method's name in errors, as in "format duo".
        function: the method's function; its options are its keyword-only parameters.
        given: option values by name; ``None`` where an option is not given.
        hidden: keyword-only parameters that are not options.

    Raises:
        UsageError: the method does not take an option; the message lists its options.
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

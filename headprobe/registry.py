"""Find methods by name: the project's own, and the entry points of installed packages."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import entry_points
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from headprobe.errors import HeadprobeError, UsageError

Method = TypeVar("Method")

_KINDS = {int: "a whole number", float: "a number", str: "a text"}


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
    own = declared_options(function, hidden)
    chosen = {option: value for option, value in given.items() if value is not None}
    for option in chosen:
        if option not in own:
            known = ", ".join(f"`{name}`" for name in own) or "none"
            message = f"{method} takes no such option; it takes {known}"
            raise UsageError(message, option=option)
    return chosen


def read_options(
    method: str,
    function: Callable[..., object],
    texts: Sequence[str],
    *,
    hidden: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Read options given as ``name=value`` by the types that a method's function declares.

    The types are ``int``, ``float``, ``bool`` (true or false), ``str``, a ``Literal`` or a union of
    them. An option that is not given stays at its default; ``None`` cannot be given.

    Args:
        method: the method's name in errors, as in "strategy duo".
        function: the method's function; its options are its keyword-only parameters.
        texts: the options, each once.
        hidden: keyword-only parameters that are not options.

    Raises:
        UsageError: a text names no option of the method, or its value is of another type.
    """
    own = declared_options(function, hidden)
    chosen: dict[str, Any] = {}
    for text in texts:
        name, is_given, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not is_given or name not in own or name in chosen:
            known = ", ".join(f"{option}=..." for option in own) or "no option"
            raise UsageError(f"{method} takes {known}, each once", option="option", value=text)
        try:
            chosen[name] = _read(value.strip(), own[name].annotation)
        except ValueError as error:
            raise UsageError(f"of {method}: {error}", option="option", value=text) from None
    return chosen


def declared_options(
    function: Callable[..., object], hidden: tuple[str, ...] = ()
) -> dict[str, inspect.Parameter]:
    """Return the options that a method's function declares: its keyword-only parameters."""
    return {
        name: parameter
        for name, parameter in inspect.signature(function, eval_str=True).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in hidden
    }


def _read(text: str, annotation: Any) -> Any:
    """Read a text as a value of an annotated type; ``ValueError`` says what is expected."""
    is_union = get_origin(annotation) in (Union, UnionType)
    words: dict[str, Any] = {}
    kinds = []
    for one in get_args(annotation) if is_union else (annotation,):
        if get_origin(one) is Literal:
            words |= {str(choice): choice for choice in get_args(one)}
        elif one is bool:
            words |= {"true": True, "false": False}
        elif one in _KINDS:
            kinds.append(one)
    if text in words:
        return words[text]
    for kind in kinds:
        with suppress(ValueError):
            value = kind(text)
            if kind is str or math.isfinite(value):
                return value
    expected = [*(_KINDS[kind] for kind in kinds), *words] or ["nothing that can be typed"]
    raise ValueError(f"expected {' or '.join(expected)}")

"""The reference of all commands, docs/cli.md: ``python -m headprobe.cli.reference`` prints it."""

from __future__ import annotations

import inspect
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from typer.models import ArgumentInfo, CommandInfo, ParameterInfo

from headprobe.cli.app import app

_HEAD = """\
# Commands

Every command of `headprobe` with its arguments and options, as `--help` shows them. This page is
made from the program by `make docs`.

`headprobe --version` prints the version, `headprobe --verbose COMMAND` logs what is loaded, planned
and done, and `headprobe --install-completion` installs completion for the shell. A command ends
with exit code 0, with 1 on a problem met while working, 2 on wrong usage, 130 after Ctrl-C.
Messages go to stderr, results to stdout; with `--quiet` errors alone are told.
"""


def reference() -> str:
    """Write the reference of all commands as Markdown."""
    return "\n".join([_HEAD, *(_section(command) for command in app.registered_commands)])


def _section(command: CommandInfo) -> str:
    function = command.callback
    assert function is not None
    name = command.name or function.__name__
    usage = [f"headprobe {name} [OPTIONS]"]
    panels = defaultdict(list)
    for parameter, info, value in _parameters(function):
        if isinstance(info, ArgumentInfo):
            usage.append(f"[{info.metavar}]" if parameter.default is None else str(info.metavar))
        panels[info.rich_help_panel or "Arguments"].append(_row(parameter, info, value))
    lines = [f"## {name}", "", f"`{' '.join(usage)}`", "", *_text(function)]
    for panel, rows in panels.items():
        lines += [f"| {panel} | value | default | meaning |", "|---|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _text(function: Callable[..., Any]) -> Iterator[str]:
    """Yield the lines of a docstring, its examples as blocks of code."""
    for paragraph in inspect.cleandoc(function.__doc__ or "").split("\n\n"):
        example = paragraph.removeprefix("Example: ")
        yield from [paragraph, ""] if example == paragraph else ["```", example, "```", ""]


def _parameters(
    function: Callable[..., Any],
) -> Iterator[tuple[inspect.Parameter, ParameterInfo, Any]]:
    """Yield each parameter with what typer is told of it, and the type of a value."""
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        value, *told = get_args(hints[name])
        info = next(one for one in told if isinstance(one, ParameterInfo))
        yield parameter, info, _one_value(value)


def _one_value(value: Any) -> Any:
    """Return the type itself of an optional value or of a list."""
    while get_origin(value) in (Union, UnionType, list):
        (value,) = (one for one in get_args(value) if one is not NoneType)
    return value


def _row(parameter: inspect.Parameter, info: ParameterInfo, value: Any) -> str:
    # A bracket is escaped for the terminal.
    told = (info.help or "").replace("\\[", "[")
    cells = [f"`{_names(parameter, info)}`", _value(info, value), _default(parameter, info), told]
    return f"| {' | '.join(map(_escaped, cells))} |"


def _names(parameter: inspect.Parameter, info: ParameterInfo) -> str:
    if isinstance(info, ArgumentInfo):
        return str(info.metavar)
    # In an annotation the first name stands where typer looks for a default.
    declared = [str(name) for name in (info.default, *(info.param_decls or ())) if name is not ...]
    return ", ".join(declared) or "--" + parameter.name.replace("_", "-")


def _value(info: ParameterInfo, value: Any) -> str:
    """Name the values by metavar, choices or type; a flag has none."""
    if value is bool:
        return ""
    if info.metavar and not isinstance(info, ArgumentInfo):
        return f"`{info.metavar}`"
    listed = isinstance(value, type) and issubclass(value, Enum)
    choices = [one.value for one in value] if listed else get_args(value)
    if choices:
        return f"`{'|'.join(choices)}`"
    kind = {str: "text", int: "integer", float: "number"}.get(value, "path")
    if info.min is None:
        return kind
    return f"{kind}, {info.min} {'or more' if info.max is None else f'to {info.max}'}"


def _default(parameter: inspect.Parameter, info: ParameterInfo) -> str:
    if isinstance(info.show_default, str):
        return info.show_default
    if parameter.default is inspect.Parameter.empty:
        return "required"
    hidden = not info.show_default or parameter.default is None or parameter.default is False
    return "" if hidden else f"`{parameter.default}`"


def _escaped(cell: str) -> str:
    """Escape what would end the cell, and outside code what would be HTML."""
    cell = re.sub("`[^`]*`|<", lambda found: "&lt;" if found[0] == "<" else found[0], cell)
    return cell.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference())

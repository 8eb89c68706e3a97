"""Errors in the words of the command line: a parameter is an option there."""

from __future__ import annotations

import re
from inspect import signature
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headprobe.errors import HeadprobeError

_PARAMETER = re.compile(r"`(?P<name>[a-z]\w*)(?:=(?P<value>[^`]+))?`")


def worded(error: HeadprobeError) -> str:
    """Word an error for the person at the terminal.

    ``HeadprobeError("expected 0 to 1, or no `decode`", option="until_stable", value=1.5)`` reads
    "--until-stable 1.5: expected 0 to 1, or no --decode".
    """
    message = in_options(error.message)
    if error.option is None:
        return message
    return f"{_typed(error.option, error.value)}: {message}"


def in_options(text: str) -> str:
    """Turn parameters in backquotes into options: "`device_map=auto`" into "--device-map auto".

    "`compensation=False`" becomes "--no-compensation". What others write in backquotes stays.
    """
    from headprobe.cli import app

    known = {
        name
        for command in app.registered_commands
        for name in signature(command.callback or app).parameters
    }
    return _PARAMETER.sub(
        lambda found: _typed(found["name"], found["value"]) if found["name"] in known else found[0],
        text,
    )


def _typed(name: str, value: object) -> str:
    option = f"--{name.replace('_', '-')}"
    if value == "False":
        return option.replace("--", "--no-", 1)
    if value is None:
        return option
    text = f"{value:g}" if isinstance(value, float) else str(value)
    # Not as it was typed where that is hard to see, or more than one line.
    return f"{option} {text if text.isprintable() and text.strip() else repr(text)}"

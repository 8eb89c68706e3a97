"""Errors in the words of the command line: a parameter is an option there."""

from __future__ import annotations

import re
from inspect import signature
from typing import Any

from headprobe.errors import HeadprobeError, UsageError

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
    from headprobe.cli.app import app

    known = {
        name
        for command in app.registered_commands
        for name in signature(command.callback or app).parameters
    }
    return _PARAMETER.sub(
        lambda found: _typed(found["name"], found["value"]) if found["name"] in known else found[0],
        text,
    )


def mistyped(error: Any) -> UsageError | None:
    """Word an error of typer's as one line of ours, with the command whose help to read.

    ``None`` where typer has shown the help already, as for no arguments at all.
    """
    if type(error).__name__ == "NoArgsIsHelpError":
        return None
    # Choices stand on lines of their own.
    message = " ".join(error.format_message().split()).rstrip(".").replace(" Value error,", "")
    command = error.ctx.command_path if error.ctx else "headprobe"
    return UsageError(f"{message[:1].lower()}{message[1:]}; see `{command} --help`")


def _typed(name: str, value: object) -> str:
    option = f"--{name.replace('_', '-')}"
    if value == "False":
        return option.replace("--", "--no-", 1)
    if value is None:
        return option
    text = f"{value:g}" if isinstance(value, float) else str(value)
    # Not as it was typed where that is hard to see, or more than one line.
    return f"{option} {text if text.isprintable() and text.strip() else repr(text)}"

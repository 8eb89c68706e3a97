"""``--help`` says everything that options say of themselves."""

from __future__ import annotations

import re

import pytest
import typer

from headprobe.cli import app
from tests._support.command_line import succeed

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def words(text: str) -> str:
    """A text without the frames and breaks of a terminal."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_option_is_shown_as_it_was_written(command: str) -> None:
    shown = words(succeed(command, "--help", columns=250).stdout)
    parameters = COMMANDS[command].params
    assert parameters
    for parameter in parameters:
        assert parameter.help, parameter.name
        # As escaped for rich.
        assert words(parameter.help.replace("\\[", "[")) in shown, parameter.name
        for name in parameter.opts:
            assert not name.startswith("--") or name in shown
        if isinstance(parameter.show_default, str):
            assert words(parameter.show_default) in shown, parameter.name


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example(command: str) -> None:
    assert f"Example: headprobe {command}" in words(succeed(command, "--help").stdout)


def test_the_version_is_printed() -> None:
    assert succeed("--version").stdout.startswith("headprobe 0.")

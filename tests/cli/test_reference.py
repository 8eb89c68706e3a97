"""docs/cli.md says of every command what ``--help`` says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from headprobe.cli.app import app
from headprobe.cli.reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_the_page_of_the_commands_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "make it anew: make docs"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_page_has_every_name_and_the_help_of_every_parameter(name: str) -> None:
    section = reference().split(f"\n## {name}\n")[1].split("\n## ")[0]
    named = [row.split(" | ")[0].strip("| `") for row in section.splitlines()]
    for parameter in COMMANDS[name].params:
        if parameter.param_type_name == "option":
            names = {*parameter.opts, *parameter.secondary_opts}
            assert any(names == {*re.split(", |/", one)} for one in named), parameter.name
        told = parameter.help.replace("\\[", "[").replace("<", "&lt;").replace("|", "\\|")
        assert told in section


def test_each_row_of_the_tables_has_four_cells() -> None:
    rows = [row for row in reference().splitlines() if row.startswith("|")]
    assert {row.replace("\\|", "").count("|") for row in rows} == {5}

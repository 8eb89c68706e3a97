"""``--help`` says everything that options say of themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, get_args

import pytest
import typer

from headprobe.ablation.plan import ABLATIONS
from headprobe.allocators._reduction import REDUCTIONS
from headprobe.allocators._rounding import ROUNDINGS
from headprobe.budgets import GRANULARITIES
from headprobe.cli import options
from headprobe.cli.app import app
from headprobe.cli.listing import Registry
from headprobe.models.device import DTYPES
from headprobe.prompts.style import AskedStyle
from headprobe.tasks import TASKS, Steps
from headprobe.tasks.grading import METRICS, PASSED
from tests._support.command_line import headprobe, succeed

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
OPTIONS = [
    pytest.param(parameter, id=f"{name} {parameter.opts[0]}")
    for name, command in COMMANDS.items()
    for parameter in command.params
    if parameter.param_type_name == "option"
]
PANELS = {value for name, value in vars(options).items() if name.isupper()}
ASKING = [task.name for task in TASKS.values() if task.asks and not task.reads_documents]
SHORT = {"--model": "-m", "--task": "-t", "--out": "-o", "--budget": "-b", "--quiet": "-q"}


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


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_has_a_panel_and_the_usual_short_name(option: Any) -> None:
    assert option.rich_help_panel in PANELS
    short = [name for name in option.opts if not name.startswith("--")]
    assert short == [SHORT[name] for name in option.opts if name in SHORT]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_usage_line_has_no_double_brackets(command: str) -> None:
    usage = words(succeed(command, "--help").stdout).split("Example:")[0]
    assert "[[" not in usage
    assert f"headprobe {command} [OPTIONS]" in usage


@pytest.mark.parametrize(
    ("command", "name", "choices"),
    [
        ("score", "task", list(TASKS)),
        ("evaluate", "task", ASKING),
        ("ablate", "task", ASKING),
        ("score", "dtype", ["auto", *DTYPES]),
        ("score", "decode", ["greedy", "forced"]),
        ("score", "steps", get_args(Steps)),
        ("score", "prompt", get_args(AskedStyle)),
        ("ablate", "ablation", ABLATIONS),
        ("ablate", "metric", [PASSED, *METRICS]),
        ("evaluate", "metric", [PASSED, *METRICS]),
        ("allocate", "rounding", ROUNDINGS),
        *((command, "granularity", GRANULARITIES) for command in ("allocate", "evaluate")),
        *((command, "reduce", REDUCTIONS) for command in ("allocate", "evaluate", "export")),
    ],
)
def test_choices_are_shown_as_the_library_has_them(
    command: str, name: str, choices: Iterable[str]
) -> None:
    shown = words(succeed(command, "--help", columns=250).stdout)
    assert name in {parameter.name for parameter in COMMANDS[command].params}
    assert "|".join(choices) in shown


def test_the_registries_are_named_though_older_releases_of_typer_hide_choices() -> None:
    sentence = words(succeed("list", "--help", columns=250).stdout).split("Example:")[0]
    assert all(registry in sentence for registry in Registry)


@pytest.mark.parametrize(
    ("command", "option", "choice"),
    [
        ("ablate", "--ablation", "zero"),
        ("ablate", "--metric", "f1"),
        ("evaluate", "--metric", "f1"),
    ],
)
def test_another_value_than_the_choices_is_wrong_usage(
    command: str, option: str, choice: str
) -> None:
    done = headprobe(command, option, "rouge")
    assert done.returncode == 2
    assert option in done.stderr
    assert choice in done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example(command: str) -> None:
    assert f"Example: headprobe {command}" in words(succeed(command, "--help").stdout)


def test_the_version_is_printed() -> None:
    assert succeed("--version").stdout.startswith("headprobe 0.")

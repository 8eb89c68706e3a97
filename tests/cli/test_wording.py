"""Errors are told with their facts, parameters as the options that are typed."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from inspect import signature
from pathlib import Path

import pytest

from headprobe.cli import app
from headprobe.cli.wording import worded
from headprobe.errors import HeadprobeError, HeadprobeWarning, UsageError
from tests._support.command_line import headprobe

PACKAGE = Path(app.__file__).parents[1]
# What another program takes.
FLAG = re.compile(r"(?<!llama-gguf-split )(?<![\w-])--[a-z]")


def library() -> Iterator[tuple[str, ast.Module]]:
    """The name and the tree of each file that is for callers from Python."""
    for path in sorted(PACKAGE.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        # What parses arguments is a program of its own.
        if not path.is_relative_to(PACKAGE / "cli") and "import argparse" not in source:
            yield str(path.relative_to(PACKAGE)), ast.parse(source)


def test_only_the_command_line_writes_flags() -> None:
    assert [
        f"{name}:{node.lineno}: {node.value}"
        for name, tree in library()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and FLAG.search(node.value)
    ] == []


def test_the_options_that_errors_name_are_those_of_commands() -> None:
    known = {
        name
        for command in app.app.registered_commands
        if command.callback
        for name in signature(command.callback).parameters
    }
    named = {
        node.value.value
        for _, tree in library()
        for node in ast.walk(tree)
        if isinstance(node, ast.keyword) and node.arg == "option"
        if isinstance(node.value, ast.Constant)
    }
    assert len(named) > 20
    assert named <= known


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UsageError("no run"), "no run"),
        (UsageError("too low", option="until_stable"), "--until-stable: too low"),
        (UsageError("too low", option="beta", value=0.5), "--beta 0.5: too low"),
        (UsageError("too low", option="depths", value=-1.0), "--depths -1: too low"),
        (UsageError("too low", option="seed", value=0), "--seed 0: too low"),
        (UsageError("no model", option="model", value=Path("a b")), "--model a b: no model"),
        (UsageError("expected one", option="lengths", value=""), "--lengths '': expected one"),
        (UsageError("expected one", option="task", value="a\nb"), "--task 'a\\nb': expected one"),
        (HeadprobeError("x.json is cut short", path=Path("x.json")), "x.json is cut short"),
        (
            UsageError("no such, or no `device_map`", option="device"),
            "--device: no such, or no --device-map",
        ),
        (HeadprobeError("try `dtype=bfloat16`"), "try --dtype bfloat16"),
        (HeadprobeError("give `compensation=False`"), "give --no-compensation"),
        (HeadprobeError("give `model=./a b`"), "give --model ./a b"),
        (HeadprobeError("model type `nosuch`"), "model type `nosuch`"),
        (HeadprobeError("run `headprobe score`"), "run `headprobe score`"),
    ],
)
def test_an_error_reads_as_it_was_typed(error: HeadprobeError, told: str) -> None:
    assert worded(error) == told


def test_a_caller_from_python_is_told_of_parameters() -> None:
    error = UsageError("give a smaller `window`", option="budget", value=8)
    assert str(error) == "budget=8: give a smaller `window`"
    assert (error.option, error.value, error.path) == ("budget", 8, None)
    assert str(HeadprobeError("no file", path=Path("x"))) == "no file"


@pytest.mark.parametrize(("kind", "code"), [(HeadprobeError, 1), (UsageError, 2)])
def test_an_error_becomes_one_line_and_its_exit_code(
    kind: type[HeadprobeError], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> int:
        raise kind("give more `top_k`", option="seed", value=3)

    monkeypatch.setattr(app, "_run", fail)
    done = headprobe("show")
    assert done.returncode == code
    assert done.only_line() == "error: --seed 3: give more --top-k"
    assert done.stdout == ""


def test_a_warning_is_one_line_with_options(monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(_: object) -> int:
        warnings.warn("going on with `prefill_chunk=64`", HeadprobeWarning, stacklevel=1)
        return 0

    monkeypatch.setattr(app, "_run", warn)
    done = headprobe("show")
    assert done.returncode == 0
    assert done.only_line() == "warning: going on with --prefill-chunk 64"

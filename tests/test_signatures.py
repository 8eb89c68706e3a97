"""No function takes more parameters than a reader can hold, but for what typer makes options of."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import headprobe
from headprobe.cli.app import app

MOST = 12
PACKAGE = Path(headprobe.__file__).parent
COMMANDS = {
    command.callback.__name__ for command in app.registered_commands if command.callback is not None
}


def functions() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield file.relative_to(PACKAGE), node


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    own = function.args
    named = [*own.posonlyargs, *own.args, *own.kwonlyargs]
    return len(named) + (own.vararg is not None) + (own.kwarg is not None)


def test_no_function_but_a_command_takes_more_than_twelve_parameters() -> None:
    sizes = {f"{file}: {one.name}": parameters(one) for file, one in functions()}
    long = {name for name, size in sizes.items() if size > MOST}
    commands = {f"cli/{name}.py: {name}" for name in COMMANDS} | {
        "cli/importing.py: import_scores",
        "cli/listing.py: list_registry",
    }
    assert len(sizes) > 500
    assert long <= commands

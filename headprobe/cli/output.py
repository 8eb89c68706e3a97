"""The output of commands: tables and JSON on stdout, notes, warnings and progress on stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from headprobe.inputs.printable import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


NAME_WIDTH, UNLIMITED = 20, 10_000
_QUIET = ContextVar("quiet", default=False)
_LOG = logging.getLogger("headprobe")


class Bar(Protocol):
    """A bar of long work, to be called after each piece of it.

    ``is_live`` is true where it is shown, on a terminal.
    """

    is_live: bool

    def __call__(self) -> None:
        """Count one more piece as done."""
        ...

    def tell(self, line: str) -> None:
        """Show a line beside the bar."""
        ...


def _stderr() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def be_quiet(wanted: bool) -> bool:
    """Say nothing but errors from now on, if ``wanted``."""
    if wanted:
        _QUIET.set(True)
    return wanted


def is_quiet() -> bool:
    """Return whether nothing is said but errors."""
    return _QUIET.get()


def note(message: str) -> None:
    """Print one line for the person at the terminal, on stderr."""
    if not is_quiet():
        _stderr().print(printable(message), markup=False)


def warn(message: str) -> None:
    """Print one line of warning on stderr."""
    if not is_quiet():
        _stderr().print(f"warning: {printable(message)}", markup=False, style="yellow")


def written(path: Path, *, then: str, json: bool) -> None:
    """Say where results are and what to do ``then``; quietly print the path alone.

    Nothing is added to the JSON of a quiet command.
    """
    note(f"written to {path}; next: {then}")
    if is_quiet() and not json:
        print_path(path)


def print_path(path: Path | str) -> None:
    """Print the path of what was written on stdout."""
    sys.stdout.write(f"{path}\n")


def fail(message: str) -> None:
    """Print the one line that an error leaves on stderr."""
    _stderr().print(f"error: {printable(message)}", markup=False, style="red")


def start_log() -> None:
    """Log on stderr what the library does, with the time."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s", "%H:%M:%S"))
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.DEBUG)


@contextmanager
def restored() -> Iterator[None]:
    """End after the block what ``start_log`` and ``be_quiet`` have started in it."""
    try:
        yield
    finally:
        _QUIET.set(False)
        _LOG.handlers.clear()
        _LOG.setLevel(logging.NOTSET)


def show_json(content: Any) -> None:
    """Print JSON on stdout, and nothing else."""
    sys.stdout.write(json.dumps(content, indent=2, allow_nan=False) + "\n")


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table on stdout, numbers to the right, and a dash where there is no value.

    The table is as wide as the terminal at most, or as ``COLUMNS`` says; in a file as wide as it
    takes.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    # Not console.is_terminal, which FORCE_COLOR makes true of a file.
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        console.width = UNLIMITED
    lines = map(printable, title.split("\n"))
    table = Table(title=Text("\n".join(lines)), title_justify="left", header_style="bold")
    cells = [[printable(name), *(_cell(row[i]) for row in rows)] for i, name in enumerate(columns)]
    widths = _whole_words(cells, console.width - 3 * len(columns) - 1)
    for i, column in enumerate(columns):
        numeric = all(isinstance(row[i], int | float | None) for row in rows)
        table.add_column(
            Text(printable(column)),
            justify="right" if numeric else "left",
            overflow="fold",
            width=widths[i] if widths else None,
            no_wrap=i == 0 and _is_name(cells[i]),
        )
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    console.print(table)


def _whole_words(cells: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """Find widths of columns that cut no word, the widest giving way first.

    ``cells`` are the cells of each column, its heading too. ``None`` means that there is no room.
    """
    from rich.cells import cell_len

    full = [max(map(cell_len, column)) for column in cells]
    least = [
        max((cell_len(w) for cell in column for w in cell.split()), default=0) for column in cells
    ]
    if _is_name(cells[0]):
        least[0] = full[0]
    for level in range(max(full), 0, -1):
        widths = [max(low, min(high, level)) for low, high in zip(least, full, strict=True)]
        if sum(widths) <= room:
            return widths
    return None


def _is_name(column: Sequence[str]) -> bool:
    """Return whether a first column holds names, which stay whole while other columns give way."""
    from rich.cells import cell_len

    return max(map(cell_len, column[1:]), default=0) <= NAME_WIDTH


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else printable(str(value))


@contextmanager
def progress(what: str, total: int) -> Iterator[Bar]:
    """Show a bar with the time left on stderr; stay silent where stderr is no terminal."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    console = _stderr()
    shown = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("left {task.fields[told]}", markup=False),
        console=console,
        disable=is_quiet() or not console.is_terminal,
    )
    # rich 13.7 ends a bar that is not shown in an empty line.
    with nullcontext() if shown.disable else shown:
        yield _Bar(shown, printable(what), total)


class _Bar:
    def __init__(self, shown: Progress, what: str, total: int) -> None:
        self.is_live = not shown.disable
        self._shown = shown
        self._task = shown.add_task(what, total=total, told="")

    def __call__(self) -> None:
        self._shown.advance(self._task)

    def tell(self, line: str) -> None:
        self._shown.update(self._task, told=f"· {line}")

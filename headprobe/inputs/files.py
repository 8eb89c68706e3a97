"""Read the files that people bring: regular ones, in UTF-8, bounded in size, row by row."""

from __future__ import annotations

import csv
import itertools
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from headprobe.errors import UsageError
from headprobe.inputs.strict_json import parse_json

LARGEST_FILE = 256_000_000
"""Characters of a file, or of a line, that is read as a whole."""
_DELIMITERS = ",;\t"


@contextmanager
def open_text(path: Path, *, kind: str) -> Iterator[TextIO]:
    """Open a text file in UTF-8, with or without a byte order mark.

    Args:
        path: the file; a FIFO or a device, which may never end, is refused.
        kind: the word that errors put before "file", as in "needle".

    Raises:
        UsageError: there is no such file, it is no regular one, or it cannot be read; it holds
            bytes that are no UTF-8 where the block reads them.
    """
    try:
        require_regular(path)
        with path.open(encoding="utf-8-sig") as file:
            yield file
    except FileNotFoundError as error:
        raise UsageError(f"no {kind} file {path}", path=path) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        message = f"cannot read the {kind} file {path}: {reason or error}"
        raise UsageError(message, path=path) from error


def require_regular(path: Path) -> None:
    """Raise ``OSError`` unless a path is a regular file or a link to one."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(0, "it is no regular file")


def read_text(path: Path, *, kind: str) -> str:
    """Read a text file as a whole.

    Raises:
        UsageError: as ``open_text``, or the file is too large.
    """
    with open_text(path, kind=kind) as file:
        text = file.read(LARGEST_FILE + 1)
    if len(text) > LARGEST_FILE:
        message = f"the {kind} file {path} has more than {LARGEST_FILE:,} characters: split it"
        raise UsageError(message, path=path)
    return text


def json_rows(path: Path, *, kind: str) -> Iterator[tuple[str, Any]]:
    """Yield the rows of JSONL, or of a JSON array, each with its place, as in "line 3".

    Args:
        path: the file; blank lines are left out.
        kind: the word that errors put before "file", as in "needle".

    Raises:
        UsageError: the file cannot be read, or a row is no JSON; its place is told.
    """
    with open_text(path, kind=kind) as file:
        is_array = next((line for line in lines(file) if line.strip()), "").lstrip()[:1] == "["
    if is_array:
        yield from _entries(read_text(path, kind=kind), path)
        return
    with open_text(path, kind=kind) as file:
        for number, line in enumerate(lines(file), start=1):
            if len(line) > LARGEST_FILE:
                message = f"{path}, line {number}: more than {LARGEST_FILE:,} characters"
                raise UsageError(message, path=path)
            if line.strip():
                yield f"line {number}", _row(line, path, f"line {number}")


def lines(file: TextIO) -> Iterator[str]:
    """Yield the lines of a file; one that is longer than ``LARGEST_FILE`` in pieces."""
    # Not splitlines(): JSON may hold U+2028 and its like, which are no line ends there.
    return iter(lambda: file.readline(LARGEST_FILE + 1), "")


def csv_rows(path: Path, *, kind: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows of a CSV table with a header, each with its place, as in "line 3".

    Args:
        path: the file; commas, semicolons or tabs part the cells.
        kind: the word that errors put before "file", as in "needle".

    Raises:
        UsageError: the file cannot be read, or a row is at fault; its place is told.
    """
    csv.field_size_limit(LARGEST_FILE)
    with open_text(path, kind=kind) as file:
        first = next(lines(file), "")
        delimiter = max(_DELIMITERS, key=first.count)
        reader = csv.reader(itertools.chain([first], lines(file)), delimiter=delimiter, strict=True)
        try:
            header = next(reader, [])
            if len(set(header)) < len(header) or not all(header):
                raise UsageError(f"{path}: expected a header with a name a column", path=path)
            for cells in filter(None, reader):
                place = f"line {reader.line_num}"
                if len(cells) != len(header):
                    message = f"{path}, {place}: expected {len(header)} cells, got {len(cells)}"
                    raise UsageError(message, path=path)
                yield place, dict(zip(header, cells, strict=True))
        except csv.Error as error:
            message = f"{path}, line {reader.line_num}: no CSV ({error})"
            raise UsageError(message, path=path) from error


def _entries(text: str, path: Path) -> Iterator[tuple[str, Any]]:
    for number, entry in enumerate(_row(text, path, "a JSON array"), start=1):
        yield f"entry {number}", entry


def _row(text: str, path: Path, place: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise UsageError(f"{path}, {place}: {error}", path=path) from error

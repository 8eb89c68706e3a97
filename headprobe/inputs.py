"""Read files that people bring: regular ones, bounded in size and depth, strict in their form."""

from __future__ import annotations

import csv
import itertools
import json
import math
import re
import reprlib
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from headprobe.errors import UsageError, excerpt

LONGEST_TEXT = 1_000_000
"""Bytes of a needle, a question or a word; prompts of this length exist, sentences do not."""
LONGEST_CONTEXT = 16_000_000
"""Bytes of a context that a question is asked about."""
LARGEST_FILE = 256_000_000
"""Characters of a file, or of a line, that is read as a whole."""
_MOST_DIGITS, _MOST_BITS = 400, 63
_SHOWN = 80
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


def parse_json(text: str) -> Any:
    """Parse one JSON document, in which no object gives a key twice.

    Raises:
        ValueError: the text is no JSON, nested too deeply, or has numbers of hundreds of digits.
    """
    documents = json_documents(text)
    document = next(documents)
    for _ in documents:
        raise ValueError("not JSON (more than one document)")
    return document


def json_documents(text: str) -> Iterator[Any]:
    """Yield the JSON documents that follow one another in a text, one at least.

    Raises:
        ValueError: as ``parse_json``, at the first document that is at fault.
    """
    at = _after_space(text, 0)
    while True:
        try:
            document, at = _DECODER.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise ValueError(f"not JSON, or cut short ({error})") from None
        except RecursionError:
            raise ValueError("not JSON that can be read: nested too deeply") from None
        yield document
        at = _after_space(text, at)
        if at == len(text):
            return


def _after_space(text: str, at: int) -> int:
    return _SPACE.match(text, at).end()  # type: ignore[union-attr]


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        [(twice, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"key {brief(twice)} is given twice")
    return fields


def _integer(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def check_leaves(document: Any) -> None:
    """Refuse values that Python's JSON can hold and others cannot, wherever they stand.

    These are NaN and infinite numbers, which schemas let pass, integers of more than 64 bits, and
    half a surrogate pair, which cannot be printed.

    Raises:
        ValueError: there is such a value; the message names its place, as in "plan.lengths[1]".
    """
    for where, leaf in _leaves(document, ""):
        if isinstance(leaf, float) and not math.isfinite(leaf):
            raise ValueError(f"{where}: expected a finite number, got {leaf}")
        if isinstance(leaf, int) and leaf.bit_length() > _MOST_BITS:
            raise ValueError(f"{where}: expected a number of 64 bits, got {brief(leaf)}")
        if isinstance(leaf, str):
            fit_text(leaf, where)


def _leaves(value: Any, where: str) -> Iterator[tuple[str, Any]]:
    """Yield the values in a JSON document with their places; names of fields count as values."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{where}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield where or "a field's name", key
            yield from _leaves(item, f"{where}.{key}" if where else key)
    else:
        yield where, value


def json_object(line: str) -> dict[str, Any]:
    """Read the object in a line of JSONL; ``ValueError`` says what is wrong with the line."""
    return as_object(parse_json(line))


def as_object(row: Any) -> dict[str, Any]:
    """Return a row that is an object; ``ValueError`` where it is none."""
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, got {brief(row)}")
    return row


def text_field(fields: Mapping[str, Any], name: str, *, longest: int = LONGEST_TEXT) -> str:
    """Return a field's text, stripped; ``ValueError`` where it has none, or one that is unfit."""
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"expected a text in field {name!r}, got {brief(value)}")
    return fit_text(value, f"field {name!r}", longest=longest)


def spelled_field(fields: Mapping[str, Any], name: str) -> str:
    """Return a field's text, stripped, or its number as it is written; else ``ValueError``."""
    return text_field({name: spelled(fields.get(name))}, name)


def spelled(value: Any) -> Any:
    """Spell out a finite number; return anything else as it is."""
    # By type(): true and false are integers to isinstance.
    if type(value) is int or (type(value) is float and math.isfinite(value)):
        return json.dumps(value)
    return value


def fit_text(text: str, where: str, *, longest: int = LONGEST_TEXT) -> str:
    """Return a text, stripped, that tokenizers can take.

    JSON can spell half of a surrogate pair, which is no character: tokenizers fail on it.

    Raises:
        ValueError: the text holds half a surrogate pair, or is longer than ``longest`` bytes.
    """
    try:
        size = len(text.encode("utf-8"))
    except UnicodeEncodeError as error:
        half = text[error.start : error.end]
        raise ValueError(f"{where} has half a surrogate pair, {half!r:.20}") from error
    if size > longest:
        raise ValueError(f"{where} has {size:,} bytes, {longest:,} are the most")
    return text.strip()


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer)
_SPACE = re.compile(r"[ \t\r\n]*")


class _Brief(reprlib.Repr):
    """A representation of anything in bounded time and depth, however large it is."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple = 3, 4, 6, 6
        self.maxstring = self.maxother = _SHOWN

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write out integers of thousands of digits.
        return repr(x) if x.bit_length() < 128 else f"an integer of {x.bit_length()} bits"


_brief = _Brief()


def brief(value: object) -> str:
    """Represent a value on one line of at most 80 characters, for a message."""
    text = " ".join(_brief.repr(value).split())
    return excerpt(text, longest=_SHOWN)

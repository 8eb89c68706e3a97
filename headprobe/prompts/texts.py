"""Read the texts of a file: prose, or a column of JSON, JSONL, CSV or parquet."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from headprobe.errors import HeadprobeWarning, UsageError
from headprobe.inputs.fields import LONGEST_TEXT, fit_text
from headprobe.inputs.files import LARGEST_FILE, csv_rows, json_rows, read_text, require_regular
from headprobe.inputs.printable import brief, printable
from headprobe.inputs.strict_json import parse_json
from headprobe.models.reading import first_line

_KIND = "haystack"
PROSE = (".txt", ".md")
# Of columns with texts of one length, the one that is called so.
_NAMES = ("text", "content", "document", "context")
# The number of first rows by which a column is chosen.
_LOOKED_AT = 32

Row = tuple[str, Any]
"""The place of a row in its file, as in "line 3", and the row: an object or a text."""


class HoldsNeedles(UsageError):
    """The file is one of needles, which no prose is to hold."""


def read_texts(path: Path, column: str | None = None) -> Iterator[str]:
    """Yield the texts of a file, by its suffix in any case.

    Of a table the named column is read, else the one with the longest texts, and a warning says
    which where there are several. A row without text in it (null, or blank) is left out.

    Raises:
        UsageError: the file cannot be read, is of another kind or has needles in it, or a row has
            no such column; its place is told.
    """
    suffix = path.suffix.lower()
    if suffix in _ROWS:
        yield from texts_of(_ROWS[suffix](path), str(path), column)
    elif suffix not in PROSE:
        raise UsageError(
            f"{path} is of another kind than {', '.join(SUFFIXES)}: if it is prose, call it .txt",
            path=path,
        )
    elif column is not None:
        raise UsageError(f"{path} is prose and has no column {column}", path=path)
    else:
        yield _with_words(read_text(path, kind=_KIND), str(path))


def texts_of(rows: Iterable[Row], source: str, column: str | None) -> Iterator[str]:
    """Yield the texts in a column of a table; see ``read_texts``.

    Args:
        rows: objects, or texts, with their places.
        source: what the table is called in errors.
        column: the column, or ``None`` for the one with the longest texts.

    Raises:
        UsageError: a row cannot be used.
    """
    rows = iter(rows)
    first = list(itertools.islice(rows, _LOOKED_AT))
    objects = [row for _, row in first if isinstance(row, dict)]
    if any({"needle", "real_needle"} <= row.keys() for row in objects):
        raise HoldsNeedles(f"{source} holds needles, not prose: give another `haystack`")
    chosen = _choose(objects, source) if column is None else column
    for place, row in itertools.chain(first, rows):
        text = row.get(chosen, row) if isinstance(row, dict) and chosen is not None else row
        if isinstance(text, str):
            yield _with_words(_fit(text, f"{source}, {place}"), f"{source}, {place}")
        elif text is not None:
            raise UsageError(f"{source}, {place}: no text in {_found(row, chosen)}")


def _choose(rows: Sequence[Mapping[str, Any]], source: str) -> str | None:
    """Choose the column with the longest texts, and say so where there are others."""
    lengths: dict[str, int] = {}
    for row in rows:
        for name, value in row.items():
            if isinstance(value, str):
                lengths[name] = lengths.get(name, 0) + len(value)
    if not lengths:
        return None
    order = {name: -place for place, name in enumerate(_NAMES)}
    chosen = max(lengths, key=lambda name: (lengths[name], order.get(name, -len(_NAMES))))
    if len(lengths) > 1:
        others = _names(name for name in lengths if name != chosen)
        warnings.warn(
            f"of {source} the column {brief(chosen)} is read, which has the longest texts; others "
            f"are named after a colon: {others}",
            HeadprobeWarning,
            stacklevel=2,
        )
    return chosen


def _names(columns: Iterable[str]) -> str:
    return printable(", ".join(map(str, columns)), longest=80)


def _found(row: Any, column: str | None) -> str:
    if not isinstance(row, dict):
        return f"{brief(row)}: expected a text, or an object with one"
    wanted = "any column" if column is None else f"column {brief(column)}"
    return f"{wanted}; its columns are {_names(row)}"


def _fit(text: str, place: str) -> str:
    try:
        return fit_text(text, "its text", longest=LARGEST_FILE)
    except ValueError as error:
        raise UsageError(f"{place}: {error}") from error


def _with_words(text: str, place: str) -> str:
    """Return a text that words can be told in, as those of prose can."""
    longest = max(map(len, text.split()), default=0) if len(text) > LONGEST_TEXT else 0
    if longest > LONGEST_TEXT:
        raise UsageError(
            f"{place}: a word of {longest:,} characters, {LONGEST_TEXT:,} are the most"
        )
    return text


def _json(path: Path) -> Iterator[Row]:
    """Yield the rows of an array, or an object: the longest texts in it, its own or a list's."""
    try:
        document = parse_json(read_text(path, kind=_KIND))
    except ValueError as error:
        raise UsageError(f"{path}: {error}", path=path) from error
    for number, row in enumerate(_largest_table(document, path), start=1):
        yield f"entry {number}", row


def _largest_table(document: Any, path: Path) -> Sequence[Any]:
    """Return the array, or of an object itself or the array in it that has most text; say which."""
    if isinstance(document, list):
        return list(document)
    arrays = document.items() if isinstance(document, dict) else ()
    tables: dict[str, list[Any]] = {"": [document]}
    tables |= {name: rows for name, rows in arrays if isinstance(rows, list)}
    chosen = max(tables, key=lambda name: _characters(tables[name]))
    if chosen and any(_characters(rows) for name, rows in tables.items() if name != chosen):
        warnings.warn(
            f"of {path} the array {brief(chosen)} is read, which has most of the text",
            HeadprobeWarning,
            stacklevel=2,
        )
    return tables[chosen]


def _characters(rows: Sequence[Any]) -> int:
    first = rows[:_LOOKED_AT]
    texts = [value for row in first if isinstance(row, dict) for value in row.values()]
    return sum(len(text) for text in (*texts, *first) if isinstance(text, str))


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        require_regular(path)
        with pq.ParquetFile(path) as file:
            text = (pa.types.is_string, pa.types.is_large_string, pa.types.is_dictionary)
            wanted = [f.name for f in file.schema_arrow if any(is_it(f.type) for is_it in text)]
            batches = file.iter_batches(batch_size=_LOOKED_AT, columns=wanted)
            rows = itertools.chain.from_iterable(batch.to_pylist() for batch in batches)
            for number, row in enumerate(rows, start=1):
                yield f"row {number}", row
    except (OSError, pa.ArrowException) as error:
        message = f"cannot read the haystack file {path}: {first_line(error)}"
        raise UsageError(message, path=path) from error


_ROWS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".json": _json,
    ".jsonl": lambda path: json_rows(path, kind=_KIND),
    ".csv": lambda path: csv_rows(path, kind=_KIND),
    ".parquet": _parquet,
}
SUFFIXES = (*PROSE, *_ROWS)

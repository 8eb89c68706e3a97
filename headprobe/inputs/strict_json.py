"""Read JSON strictly: each key once, bounded in depth, no value that others cannot hold."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from headprobe.inputs.fields import fit_text
from headprobe.inputs.printable import brief

_MOST_DIGITS, _MOST_BITS = 400, 63
_SPACE = re.compile(r"[ \t\r\n]*")


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


def json_object(line: str) -> dict[str, Any]:
    """Read the object in a line of JSONL; ``ValueError`` says what is wrong with the line."""
    return as_object(parse_json(line))


def as_object(row: Any) -> dict[str, Any]:
    """Return a row that is an object; ``ValueError`` where it is none."""
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, got {brief(row)}")
    return row


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


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer)

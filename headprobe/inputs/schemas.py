"""Check the headers of files, to their leaves, against the JSON Schemas that docs/ publishes."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from headprobe.errors import excerpt
from headprobe.inputs.printable import brief
from headprobe.inputs.strict_json import check_leaves, parse_json

_VERSIONS = ("version", "format_version")
_EXPECTED = {
    "type": "type {}",
    "const": "{}",
    "enum": "one of {}",
    "minimum": "{} or more",
    "maximum": "{} or less",
    "pattern": "a text like {}",
}


@cache
def read_schema(name: str) -> dict[str, Any]:
    """Return the published schema of a kind of file, as in "budget".

    ``docs/`` lies beside the package in a checkout, and in it where it is installed.
    """
    package, file = Path(__file__).parents[1], Path("docs") / f"{name}.schema.json"
    [path] = [root / file for root in (package, package.parent) if (root / file).is_file()][:1]
    schema: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return schema


def parse_header(content: str | bytes, schema: str) -> dict[str, Any]:
    """Parse a header, and check it against the schema of its kind of file.

    Args:
        content: JSON, in UTF-8.
        schema: the kind of file, as in "budget".

    Raises:
        ValueError: the content is no JSON, or does not fit the schema; the wrong field is named.
    """
    try:
        fields = parse_json(content if isinstance(content, str) else content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError("it is no UTF-8 text") from error
    check_leaves(fields)
    _check(fields, read_schema(schema))
    found: dict[str, Any] = fields
    return found


def _check(fields: Any, schema: dict[str, Any]) -> None:
    from jsonschema import Draft202012Validator

    known = schema["properties"]
    if "format" in known:
        found = fields.get("format") if isinstance(fields, dict) else None
        if found != known["format"]["const"]:
            raise ValueError(f"format: expected {known['format']['const']!r}, got {brief(found)}")
    for name in _VERSIONS:
        found = fields.get(name) if isinstance(fields, dict) else None
        if name in known and type(found) is int and found > known[name]["const"]:
            raise ValueError(
                f"{name}: written by a newer headprobe (expected {known[name]['const']}, got "
                f"{found}); upgrade headprobe"
            )
    error = next(Draft202012Validator(schema).iter_errors(fields), None)
    if error is None:
        return
    path = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in error.absolute_path)
    # In our own words: the library's print a whole matrix where a matrix is at fault.
    if error.validator in _EXPECTED:
        expected = _EXPECTED[error.validator].format(json.dumps(error.validator_value))
        problem = f"expected {expected}, got {excerpt(json.dumps(error.instance))}"
    else:
        problem = error.message[:200]
    raise ValueError(f"{path.removeprefix('.')}: {problem}" if path else problem)

"""The report's file: style, scripts and record in one page; and the record read back from it."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

from headprobe import __version__
from headprobe.errors import HeadprobeError, UsageError
from headprobe.files import atomic_write
from headprobe.report.packing import unpack
from headprobe.report.record import FORMAT, VERSION

LIMIT = 1_000_000
"""The most bytes of a report."""
LONGEST_SCRIPT = 40_000
"""The most bytes of its script as it is written."""
SCRIPTS = ("base", "state", "heatmap", "heads", "card", "cases", "budgets", "compare", "main")
_OPEN, _CLOSE = '<script type="application/json" id="record">', "</script>"
# What could end the block early, or begin a comment in it; and line ends of older JavaScript.
_ESCAPES = {character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029\x7f"}


def room() -> int:
    """Return the bytes that a page leaves to its record."""
    return LIMIT - len(_page({}).encode())


def write_page(record: dict[str, Any], path: Path) -> int:
    """Write a report, whole or not at all; return its size in bytes.

    Raises:
        HeadprobeError: the file cannot be written.
    """
    page = _page(record).encode()
    with atomic_write(path) as whole:
        whole.write_bytes(page)
    return len(page)


def read_page(path: Path) -> dict[str, Any]:
    """Read a report's record, with all that is packed in it as plain lists and objects.

    Raises:
        UsageError: there is no such file.
        HeadprobeError: it is no report, is damaged, or was written by a newer headprobe.
    """
    try:
        page = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        message = f"no report at {path}; make one with `headprobe report`"
        raise UsageError(message, path=path) from error
    except (OSError, UnicodeDecodeError) as error:
        raise HeadprobeError(f"cannot read {path}: {error}", path=path) from error
    _, found, rest = page.partition(_OPEN)
    try:
        if not found:
            raise ValueError("it holds no record")
        record = json.loads(rest.partition(_CLOSE)[0])
        if not isinstance(record, dict) or record.get("format") != FORMAT:
            raise ValueError("its record is of another format")
        if record.get("version") != VERSION:
            raise ValueError(f"expected version {VERSION}, got {record.get('version')}")
        return dict(unpack(record))
    except (ValueError, RecursionError) as error:
        raise HeadprobeError(
            f"{path} is no report of this headprobe ({error}); make it again with "
            "`headprobe report`",
            path=path,
        ) from error


def in_script(record: dict[str, Any]) -> str:
    """Write a record as JSON that a script element can hold, whatever its texts are."""
    text = json.dumps(record, separators=(",", ":"), allow_nan=False)
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text


def _page(record: dict[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    style = _text("report.css")
    script = _short("\n".join(_text(f"{name}.js") for name in SCRIPTS))
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(
        _text("report.html.j2")
    )
    # These three are markup by design: our own files, and JSON without a character of markup.
    runs = record.get("runs", [])
    return template.render(
        runs=len(runs),
        grouped=any(run["model"]["kv_heads"] < run["model"]["heads"] for run in runs),
        budgets=len(record.get("budgets", [])),
        version=__version__,
        style=Markup(style),
        script=Markup(script),
        record=Markup(in_script(record)),
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _text(name: str) -> str:
    return files("headprobe.report").joinpath(name).read_text(encoding="utf-8")


def _short(script: str) -> str:
    """Return a script without indents, empty lines and comments on lines of their own."""
    lines = (line.strip() for line in script.splitlines())
    return "".join(f"{line}\n" for line in lines if line and not line.startswith("//"))


def _hash(text: str) -> str:
    """Return the digest by which the page's policy allows a script or a style."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")

"""Files of other programs: one module for each format, which writes it, reads it, or both.

Each module ends in its ``FORMAT``; other packages add theirs, a ``Format``, through the entry-point
group ``headprobe.formats``. What formats share lies in ``_format`` (the record), ``_heads`` (scores
and masks) and ``_files`` (reading, and torch for ``.pt``); ``_press`` is what kvpress itself loads.
``import_run`` makes a run of a file.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from headprobe.budgets import HeadBudgets
from headprobe.errors import UsageError
from headprobe.formats import (
    attention_matching,
    compresskv,
    csv,
    duo,
    headkv,
    kvpress,
    kvzip,
    matrix,
    qrhead,
    razor,
    rtp_llm,
    safetensors,
    triattention,
)
from headprobe.formats._format import Format, Notes
from headprobe.registry import get_method, given_options, method_names, read_options
from headprobe.scores import HeadScores

__all__ = [
    "FORMATS",
    "Format",
    "Notes",
    "export_budget",
    "export_scores",
    "format_names",
    "get_format",
    "parse_options",
]

FORMATS: dict[str, Format] = {
    "headkv": headkv.FORMAT,
    "duo": duo.FORMAT,
    "kvpress": kvpress.FORMAT,
    "attention-matching": attention_matching.FORMAT,
    "rtp-llm": rtp_llm.FORMAT,
    "razor": razor.FORMAT,
    "kvzip": kvzip.FORMAT,
    "compresskv": compresskv.FORMAT,
    "qrhead": qrhead.FORMAT,
    "triattention": triattention.FORMAT,
    "matrix": matrix.FORMAT,
    "csv": csv.FORMAT,
    "safetensors": safetensors.FORMAT,
}
GROUP = "headprobe.formats"


def format_names() -> list[str]:
    """List the names of all formats, ours first, then the formats of installed packages."""
    return method_names(FORMATS, GROUP)


def get_format(name: str) -> Format:
    """Return the format called ``name``; a ``UsageError`` lists the names that there are."""
    return get_method("format", name, FORMATS, GROUP)


def export_scores(
    run: HeadScores, path: Path, *, to: str, measure: str | None = None, **options: Any
) -> Notes:
    """Write a run's scores as another program reads them; return notes on the file.

    ``measure`` is the run's own by default. ``options`` are the format's, such as ``reduce`` and
    ``sparsity``; ``None`` leaves one at its default.

    Raises:
        UsageError: no such format, it holds no scores, or takes no such option or value.
        HeadprobeError: the scores cannot be used, or the file cannot be written.
    """
    write = get_format(to).write_scores
    if write is None:
        raise UsageError(_not_written(to, "budgets, not scores; allocate first"))
    return write(run, path, **_options(to, write, {"measure": measure, **options}, run))


def export_budget(budgets: HeadBudgets, path: Path, *, to: str, **options: Any) -> Notes:
    """Write a budget as another program reads it; return notes on the file.

    Raises:
        UsageError: no such format, it cannot hold this budget, or takes no such option or value.
        HeadprobeError: the file cannot be written.
    """
    write = get_format(to).write_budget
    if write is None:
        raise UsageError(_not_written(to, "scores, not budgets; export the run"))
    return write(budgets, path, **_options(to, write, options))


def parse_options(
    to: str, texts: Sequence[str], *, of: Literal["scores", "budget"]
) -> dict[str, Any]:
    """Read options given as ``name=value``, by the types that a format's function declares.

    Raises:
        UsageError: there is no such format or option, or a value is of another type.
    """
    entry = get_format(to)
    write = entry.write_scores if of == "scores" else entry.write_budget
    return read_options(f"format {to}", write, texts, hidden=("measure",)) if write else {}


def _options(
    name: str, function: Callable[..., Notes], given: dict[str, Any], run: HeadScores | None = None
) -> dict[str, Any]:
    """Return the options given, and the measure where the function takes one."""
    chosen = given_options(f"format {name}", function, given)
    if run is not None and "measure" in inspect.signature(function).parameters:
        chosen["measure"] = run.resolve(chosen.get("measure"))
    return chosen


def _not_written(name: str, holds: str) -> str:
    form = get_format(name)
    is_written = form.write_scores or form.write_budget
    return f"format {name} holds {holds}" if is_written else f"format {name} is only read"

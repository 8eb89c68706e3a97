"""Runs made of scores that another program wrote."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from headprobe import __version__, journal, rundir, scores
from headprobe.errors import HeadprobeError, UsageError
from headprobe.files import make_directory
from headprobe.formats import FORMATS, Format, Notes, get_format
from headprobe.formats.files import Table
from headprobe.layout import HeadLayout
from headprobe.scores import HeadScores

_HEAD_DIM = 128


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """What is known of the model that a file's heads belong to; ``None`` is not known."""

    id: str | None = None
    architecture: str | None = None
    layers: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None


def import_run(
    path: Path, out: Path, *, source: str, known: KnownModel | None = None
) -> tuple[HeadScores, Notes]:
    """Make a run directory of a file in the format ``source``; returns what to know of it too.

    A run holds a score a query head: where the file has one a KV head, its whole group gets it.
    Files do not say how many query heads share a KV head; if ``known`` does not either, one is
    taken for each.

    Raises:
        UsageError: no such format or file, or ``out`` is a file or holds a run that was scored.
        HeadprobeError: the file is damaged, of another kind or of another model, or ``out`` cannot
            be written.
    """
    known = known or KnownModel()
    form = get_format(source)
    if form.read is None:
        readable = ", ".join(name for name, entry in FORMATS.items() if entry.read)
        raise UsageError(f"format {source} is only written; those that are read are {readable}")
    if not path.exists():
        raise UsageError(f"no file at {path}")
    if (out / journal.FILE_NAME).exists():
        raise UsageError(f"{out} holds a run that was scored; give another --out")
    by_kv = form.granularity == "kv"
    try:
        table = form.read(path, layers=known.layers, heads=known.kv_heads if by_kv else known.heads)
        name = path.resolve().name if path.is_dir() else path.stem
        layout = _layout(table, form, known, name=name)
        run = HeadScores(
            layout=layout,
            task=source,
            per_case={
                measure: cases.repeat(layout.group if by_kv else 1, axis=2)
                for measure, cases in table.per_case.items()
            },
            # Whose needle a case was is not told, so intervals resample cases.
            needles=(0,) * table.cases,
            cases=table.cases,
            plan=table.details | {"imported": source, "file": path.name, "sha256": _digest(path)},
            versions={"headprobe": __version__},
        )
    except ValueError as error:
        raise HeadprobeError(f"{path} is not a valid {source} file: {error}") from error
    _write(run, out)
    return run, table.notes + _guesses(layout, known, by_kv=by_kv)


def _layout(table: Table, form: Format, known: KnownModel, *, name: str) -> HeadLayout:
    """The model's heads: what the file shows, what is known, and one query head a KV head.

    Raises:
        ValueError: the file and what is known do not go together.
    """
    layers, width = table.shape
    if form.granularity == "kv":
        heads, kv_heads = known.heads or width, width
    else:
        heads, kv_heads = width, known.kv_heads or width
    layout = HeadLayout(
        id=known.id or name,
        architecture=known.architecture or "unknown",
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=known.head_dim or _HEAD_DIM,
    )
    for field in ("layers", "heads", "kv_heads"):
        wanted, found = getattr(known, field), getattr(layout, field)
        if wanted not in (None, found):
            raise ValueError(f"expected {wanted} {field}, got {found}")
    return layout


def _guesses(layout: HeadLayout, known: KnownModel, *, by_kv: bool) -> Notes:
    """What was taken for granted."""
    if by_kv and known.heads is None:
        return (
            f"the file holds KV heads: took as many query heads, {layout.heads} a layer; "
            "give --heads if they share KV heads",
        )
    if not by_kv and known.kv_heads is None:
        return (
            f"the file holds query heads: took as many KV heads, {layout.kv_heads} a layer; "
            "give --kv-heads if they share KV heads",
        )
    return ()


def _digest(path: Path) -> str:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return hashlib.sha256(b"".join(f.read_bytes() for f in files if f.is_file())).hexdigest()


def _write(run: HeadScores, out: Path) -> None:
    make_directory(out)
    run.save(out / scores.FILE_NAME)
    rundir.write_table(rundir.head_table(run, seed=0), out / rundir.HEADS)
    report = {"status": "imported", "plan": dict(run.plan), "accepted": run.accepted}
    rundir.write_json(report, out / rundir.RUN)

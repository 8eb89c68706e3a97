"""Make runs of scores that another program wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from headprobe import __version__
from headprobe.errors import HeadprobeError, UsageError
from headprobe.files import file_digest
from headprobe.formats import FORMATS, get_format
from headprobe.formats._files import Table
from headprobe.formats._format import Notes
from headprobe.models.layout import HeadLayout
from headprobe.runs.directory import HEADS, RESULTS
from headprobe.runs.engine import run_job
from headprobe.runs.identity import Plan
from headprobe.runs.job import Job
from headprobe.runs.result_files import ResultFiles
from headprobe.scores import FILE_NAME as SCORES
from headprobe.scores import HeadScores
from headprobe.scores.tables import head_table, write_table

_HEAD_DIM = 128


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """The known facts of the model that a file's heads belong to; ``None`` is not known.

    ``told_by`` names the parameter that told a size, as in "`model=nano`", where that is not the
    size's own.
    """

    id: str | None = None
    architecture: str | None = None
    layers: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_dim: int | None = None
    told_by: Mapping[str, str] = field(default_factory=dict)


def import_run(
    path: Path,
    out: Path,
    *,
    source: str,
    known: KnownModel | None = None,
    overwrite: bool = False,
) -> tuple[HeadScores, Notes]:
    """Make a run directory of a file in the format ``source``; return notes on the file too.

    A run holds a score a query head: where the file has a score a KV head, its whole group gets it.
    Files do not say how many query heads share a KV head; if ``known`` does not either, one query
    head is taken for each.

    Raises:
        UsageError: no such format or file, the file's sizes are not the known ones, ``out`` is a
            file or holds another run and ``overwrite`` is not set, or the file is one of its own.
        HeadprobeError: the file is damaged or of another kind, or ``out`` cannot be written.
    """
    if path.resolve() in [(out / name).resolve() for name in RESULTS]:
        message = f"{path} would be replaced by what is imported from it: give another `out`"
        raise UsageError(message, path=path)
    run, plan, notes = read_run(path, source=source, known=known)
    job = Job(
        out=out,
        plan=plan,
        finish=partial(_write, run),
        seal=SCORES,
        facts={"status": "imported", "accepted": run.passed, "cases": run.cases},
    )
    run_job(job, overwrite=overwrite)
    return run, notes


def read_run(
    path: Path, *, source: str, known: KnownModel | None = None
) -> tuple[HeadScores, Plan, Notes]:
    """Read a file in the format ``source`` as a run; return its plan, and notes on the file too.

    Raises:
        UsageError: no such format or file, or the file's sizes are not the known ones.
        HeadprobeError: the file is damaged or of another kind.
    """
    known = known or KnownModel()
    form = get_format(source)
    if form.read is None:
        readable = ", ".join(name for name, entry in FORMATS.items() if entry.read)
        raise UsageError(f"format {source} is only written; those that are read are {readable}")
    if not path.exists():
        raise UsageError(f"no file at {path}", path=path)
    by_kv = form.granularity == "kv"
    try:
        heads = known.kv_heads if by_kv else known.heads
        table = _read(form.read, path, layers=known.layers, heads=heads)
        known = _told(known, table)
        layout = _layout(table, known, path, by_kv=by_kv)
        plan = _plan(path, table.files, source, layout)
        run = HeadScores(
            layout=layout,
            task=table.task or source,
            per_case={
                measure: cases.repeat(layout.group_size if by_kv else 1, axis=2)
                for measure, cases in table.per_case.items()
            },
            # Where it is not told whose needle a case was, intervals resample cases.
            needles=table.needles or (0,) * table.cases,
            cases=table.cases,
            means=table.means,
            plan={**table.plan, "details": table.details} | plan.to_json(),
            versions={"headprobe": __version__},
        )
    except ValueError as error:
        raise HeadprobeError(f"{path} is not a valid {source} file: {error}") from error
    return run, plan, table.notes + _guesses(layout, known, by_kv=by_kv)


def _read(
    read: Callable[..., Table], path: Path, *, layers: int | None, heads: int | None
) -> Table:
    """Read the file's numbers, for the known number of heads if the file has it.

    Raises:
        ValueError: the file is of another kind.
    """
    try:
        return read(path, layers=layers, heads=heads)
    except ValueError:
        # A file that can be read as it stands is whole: what is known is of another model.
        with suppress(ValueError):
            return read(path, layers=None, heads=None)
        raise


def _told(known: KnownModel, table: Table) -> KnownModel:
    """Return what is known, and where nothing is, what the file tells of its model."""
    new = {name: fact for name, fact in table.model.items() if getattr(known, name) is None}
    told = {name: f"the model that it names has `{name}={fact}`" for name, fact in new.items()}
    return replace(known, **new, told_by={**known.told_by, **told})


def _layout(table: Table, known: KnownModel, path: Path, *, by_kv: bool) -> HeadLayout:
    """Work out the model's heads from the file, from ``known``, else one query head a KV head.

    Raises:
        UsageError: file and ``known`` do not go together; the parameters that told them are named.
    """
    layers, width = table.shape
    own, other = ("kv_heads", "heads") if by_kv else ("heads", "kv_heads")
    sizes = {"layers": layers, own: width, other: getattr(known, other) or width}
    wrong = [size for size, found in sizes.items() if getattr(known, size) not in (None, found)]
    if not wrong and sizes["heads"] % sizes["kv_heads"]:
        wrong = [other]
    if wrong:
        given = {size: f"`{size}={getattr(known, size)}`" for size in wrong}
        told = dict.fromkeys(known.told_by.get(size, given[size]) for size in wrong)
        kind = "KV" if by_kv else "query"
        raise UsageError(
            f"{' and '.join(told)}: {path} holds {layers} layers of {width} {kind} heads", path=path
        )
    return HeadLayout(
        id=known.id or (path.resolve().name if path.is_dir() else path.stem),
        architecture=known.architecture or "unknown",
        layers=sizes["layers"],
        num_heads=sizes["heads"],
        num_kv_heads=sizes["kv_heads"],
        head_dim=known.head_dim or _HEAD_DIM,
    )


def _guesses(layout: HeadLayout, known: KnownModel, *, by_kv: bool) -> Notes:
    """Say which sizes of the model were taken for granted."""
    if by_kv and known.heads is None:
        return (
            f"the file holds KV heads: took as many query heads, {layout.num_heads} a layer; "
            "give `heads` if they share KV heads",
        )
    if not by_kv and known.kv_heads is None:
        return (
            f"the file holds query heads: took as many KV heads, {layout.num_kv_heads} a layer; "
            "give `kv_heads` if they share KV heads",
        )
    return ()


def _plan(path: Path, files: Sequence[Path], source: str, layout: HeadLayout) -> Plan:
    sizes = layout.to_json()
    names = {name: sizes.pop(name) for name in ("id", "architecture")}
    return Plan(
        identity={
            "kind": "import",
            "imported": source,
            "sha256": file_digest(*files or (path,)),
            **sizes,
        },
        labels={"file": path.name, "model": names["id"]},
    )


def _write(run: HeadScores, _: object, files: ResultFiles) -> HeadScores:
    files.write(HEADS, partial(write_table, head_table(run, seed=0)))
    files.write_report()
    files.write(SCORES, partial(run.save, files=files.digests))
    return run

"""Find, read and clear run directories, and write the files in them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from headprobe.errors import HeadprobeError, UsageError
from headprobe.files import atomic_write, file_digest
from headprobe.inputs.strict_json import json_object
from headprobe.prompts.case import Case
from headprobe.runs.observation import Observation
from headprobe.runs.progress import FILE_NAME as PROGRESS
from headprobe.runs.progress import discard_progress
from headprobe.scores import FILE_NAME as SCORES
from headprobe.scores import REPORT, no_scores, recorded_digests

if TYPE_CHECKING:
    import pandas as pd


ROOT = Path("outputs")
CASES, HEADS, RUN = "cases.parquet", "heads.csv", REPORT
ROWS = "rows.safetensors"
BUDGETS = "budget-*.json"
SHARD = "progress.{}.sqlite"
SEALS = (SCORES, "evaluation.json", "ablation.json")
"""The files that make a directory valid, of every kind of run."""
# The files of every kind of run, what makes a directory valid first; of the first version too.
RESULTS = (
    *SEALS,
    CASES,
    HEADS,
    ROWS,
    RUN,
    "answers.parquet",
    "results.csv",
    "accuracy.png",
    "ablation.csv",
    "ablation.png",
    "results.json",
    "journal.sqlite",
    "evaluation.sqlite",
    "ablation.sqlite",
)
_LATER = ("kind", "answer", "wrong_answer", "step_start", "step_end")
"""Columns of the case table that older runs lack."""
BRIEF = ("case_id", "needle_id", "length", "depth", "position", "success", "accepted")


def directory_for(model: str, task: str) -> Path:
    """Return the default run directory, ``outputs/<model>/<task>``.

    Of a model's path the last part is used, of a GGUF file the name without the suffix.
    """
    name = Path(model).resolve().name if Path(model).exists() else model
    if name.endswith(".gguf"):
        name = Path(name.rpartition(":")[2]).stem
    return ROOT / (name.replace("/", "--") or "model") / task


def newest_run() -> Path:
    """Find the run under ``outputs/`` whose scores were written last.

    Raises:
        UsageError: there is no run, or none is finished.
    """
    found = _by_age(ROOT.glob(f"**/{SCORES}"))
    if found:
        return found[-1].parent
    begun = _by_age(ROOT.glob(f"**/{RUN}"))
    if begun:
        raise no_scores(begun[-1].with_name(SCORES))
    raise UsageError(
        f"no run under {ROOT}/; make one with `headprobe score`, or name one", path=ROOT
    )


def require_scores(named: Path | None) -> None:
    """Check that a run directory, or the file named in it, has scores.

    Without a name the newest run is checked.

    Raises:
        UsageError: there are no scores.
    """
    run = newest_run() if named is None else named
    file = run / SCORES if run.is_dir() else run
    if not file.is_file():
        raise no_scores(file)


def newest_budget(run: Path) -> Path | None:
    """Find the budget file that was written last into a run directory."""
    return next(reversed(_by_age(run.glob(BUDGETS))), None)


def _by_age(files: Iterable[Path]) -> list[Path]:
    """Sort files by the time of their last writing, oldest first."""
    return sorted(files, key=lambda file: file.stat().st_mtime_ns)


def left_shards(run: Path) -> list[Path]:
    """List progress files of processes other than the main one, left by an unfinished run."""
    return sorted(run.glob(SHARD.format("*")))


def refuse_run_files(out: Path, sources: Iterable[Path] = ()) -> None:
    """Refuse an output that would replace a file of a run, or one of the files that it is made of.

    Raises:
        UsageError: ``out`` is such a file.
    """
    own = {*RESULTS, PROGRESS, f"{PROGRESS}-journal"}
    holds_run = any((out.parent / name).exists() for name in (*SEALS, RUN, PROGRESS))
    of_run = holds_run and (out.name in own or out.match(SHARD.format("*")))
    if of_run or (out.exists() and any(out.samefile(path) for path in sources if path.exists())):
        what = f"a file of the run in {out.parent}" if of_run else "what it is made of"
        raise UsageError(f"would replace {what}: give another name", option="out", value=out)


def remove_results(out: Path) -> None:
    """Remove all results in the locked directory ``out``, and other processes' progress files.

    The files that make a directory valid go first, so that no partial result is taken for one.

    Raises:
        UsageError: a directory bears the name of one of the files; nothing is removed then.
        HeadprobeError: a file cannot be removed, or another process has it open.
    """
    for name in RESULTS:
        if (out / name).is_dir():
            message = f"{out / name} is a directory, no run's file; give another `out`"
            raise UsageError(message, path=out / name)
    try:
        for name in RESULTS:
            (out / name).unlink(missing_ok=True)
        for shard in [*left_shards(out), *out.glob("journal.*.sqlite")]:
            discard_progress(shard)
    except OSError as error:
        raise HeadprobeError(
            f"cannot remove {error.filename}: {error.strerror}; give another `out`",
            path=Path(error.filename),
        ) from error


def refuse_results(out: Path) -> None:
    """Refuse a directory that holds results without the plan that made them.

    Raises:
        UsageError: the directory holds such results.
    """
    found = next((name for name in RESULTS if (out / name).exists()), None)
    if found is not None:
        raise UsageError(
            f"{out} holds {found} of a run that cannot be gone on with: `overwrite` replaces it, "
            "or give another `out`",
            path=out,
        )


def case_table(cases: Sequence[Case], observations: Sequence[Observation]) -> pd.DataFrame:
    """Make the case table: a row a case by ``case_id``, with prompt, response and score."""
    import pandas as pd

    table = pd.DataFrame(
        {
            "case_id": case.case_id,
            "needle_id": case.needle_id,
            "kind": case.kind,
            "length": case.length,
            "depth": float(case.depth),
            "position": case.position,
            "input_ids": _ids(case.input_ids),
            "span_start": case.span_start,
            "span_end": case.span_end,
            "answer": case.answer or None,
            "wrong_answer": case.wrong_answer,
            "answer_ids": _ids(case.answer_ids),
            "generated_ids": _ids(seen.generated_ids),
            "step_start": seen.step_start,
            "step_end": seen.step_end,
            "response": seen.response,
            "success": float(seen.score),
            "accepted": seen.passed,
        }
        for case, seen in zip(cases, observations, strict=True)
    )
    # A column that holds only None would have no text type.
    return table.astype(dict.fromkeys(("kind", "answer", "wrong_answer"), "string"))


def _ids(tokens: Sequence[int]) -> Int[np.ndarray, " token"]:
    # An empty list would have no integer type.
    return np.array(tokens, dtype=np.int64)


def write_json(fields: Mapping[str, Any], path: Path) -> None:
    """Write an object as JSON, atomically."""
    with atomic_write(path) as whole:
        whole.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def read_report(run: Path) -> dict[str, Any]:
    """Read ``run.json`` of a run, named by its directory or its scores; empty if missing.

    Raises:
        HeadprobeError: the file is damaged.
    """
    path = (run if run.is_dir() else run.parent) / RUN
    if not path.is_file():
        return {}
    try:
        return json_object(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise HeadprobeError(f"{path} is damaged ({error}); run `headprobe score` again") from error


def read_cases(run: Path, columns: Sequence[str] = BRIEF) -> pd.DataFrame | None:
    """Read the case table of a run directory; ``None`` where there is none.

    Args:
        run: the run directory.
        columns: the columns to read, by default all but the prompts; columns that an older run
            lacks are empty.

    Raises:
        HeadprobeError: the file is damaged, or of another run than the scores beside it.
    """
    import pandas as pd
    import pyarrow.parquet as pq

    path = run / CASES
    if not path.is_file():
        return None
    try:
        digest, there = file_digest(path), pq.read_schema(path).names
        table = pd.read_parquet(path, columns=[n for n in columns if n in there or n not in _LATER])
    # Altered bytes of what pandas noted of the columns make it raise any of these.
    except (OSError, LookupError, TypeError, ValueError) as error:
        message = f"{path} is damaged ({error}); run `headprobe score` again"
        raise HeadprobeError(message, path=path) from error
    if recorded_digests(run).get(CASES, digest) != digest:
        raise HeadprobeError(
            f"{path} is of another run than the {SCORES} beside it; run `headprobe score` again",
            path=path,
        )
    return table.reindex(columns=list(columns))

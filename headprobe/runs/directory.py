"""The run directory: what a run leaves behind, and the newest of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int

from headprobe.errors import HeadprobeError, UsageError
from headprobe.files import atomic_write, json_object
from headprobe.prompts.case import Case
from headprobe.runs.progress import FILE_NAME as JOURNAL
from headprobe.runs.progress import Observation, discard_journal
from headprobe.scores import FILE_NAME as SCORES
from headprobe.scores import REPORT, no_scores

if TYPE_CHECKING:
    import pandas as pd


ROOT = Path("outputs")
CASES, HEADS, RUN = "cases.parquet", "heads.csv", REPORT
BUDGETS = "budget-*.json"
_LATER = ("kind", "step_start", "step_end")
"""Columns of the case table that the first runs do not have."""
BRIEF = ("case_id", "needle_id", "length", "depth", "position", "success", "accepted")


def directory_for(model: str, task: str) -> Path:
    """``outputs/<model>/<task>``, the model's name made fit for a folder's.

    Of a path its last part is taken, of a GGUF file its name without the suffix.
    """
    name = Path(model).resolve().name if Path(model).exists() else model
    if name.endswith(".gguf"):
        name = Path(name.rpartition(":")[2]).stem
    return ROOT / (name.replace("/", "--") or "model") / task


def newest_run() -> Path:
    """The run under ``outputs/`` whose scores were written last.

    Raises:
        UsageError: there is none, or none that is finished.
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


def newest_budget(run: Path) -> Path | None:
    """The budget file that was written last into a run directory."""
    return next(reversed(_by_age(run.glob(BUDGETS))), None)


def _by_age(files: Iterable[Path]) -> list[Path]:
    """Files in the order of their last writing."""
    return sorted(files, key=lambda file: file.stat().st_mtime_ns)


def left_journals(run: Path) -> list[Path]:
    """The journals of processes beside the first, which a finished run does not have any more."""
    return sorted(run.glob("journal.*.sqlite"))


def clear(run: Path) -> None:
    """Remove what an earlier run left in its directory, so that nothing stale is read.

    Raises:
        UsageError: a directory bears the name of one of its files; nothing is removed then.
        HeadprobeError: another process is working on it, or a file cannot be removed.
    """
    remove(
        [run / JOURNAL, *left_journals(run)],
        [run / name for name in (SCORES, CASES, HEADS, RUN)],
    )


def remove(journals: Sequence[Path], files: Sequence[Path]) -> None:
    """Remove journals and files, those that are there.

    Raises:
        UsageError: one of them is a directory; nothing is removed then.
        HeadprobeError: another process is writing a journal, or a file cannot be removed.
    """
    for path in (*journals, *files):
        if path.is_dir():
            message = f"{path} is a directory, no run's file; give another `out`"
            raise UsageError(message, path=path)
    try:
        for path in journals:
            discard_journal(path)
        for path in files:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise HeadprobeError(
            f"cannot remove {error.filename}: {error.strerror}; give another `out`",
            path=Path(error.filename),
        ) from error


def case_table(cases: Sequence[Case], observations: Sequence[Observation]) -> pd.DataFrame:
    """A row a case, in the order of ``case_id``: its prompt, its answer and how it was graded."""
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
    # A column of None alone would not say that it is one of texts.
    return table.astype({"kind": "string"})


def _ids(tokens: Sequence[int]) -> Int[np.ndarray, " token"]:
    # An empty list would not say that it is one of integers.
    return np.array(tokens, dtype=np.int64)


def write_json(fields: Mapping[str, Any], path: Path) -> None:
    """Write an object as JSON, whole or not at all."""
    with atomic_write(path) as whole:
        whole.write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def read_report(run: Path) -> dict[str, Any]:
    """What ``run.json`` says of a run, its directory or its scores; empty where there is none.

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
    """The case table of a run directory, without the prompts; ``None`` where there is none.

    ``columns`` names others than these; those that older runs lack are empty.

    Raises:
        HeadprobeError: the file is damaged.
    """
    import pandas as pd
    import pyarrow.parquet as pq

    path = run / CASES
    if not path.is_file():
        return None
    try:
        there = pq.read_schema(path).names
        older = [name for name in _LATER if name not in there]
        table = pd.read_parquet(path, columns=[name for name in columns if name not in older])
        return table.reindex(columns=list(columns))
    except (OSError, ValueError) as error:
        message = f"{path} is damaged ({error}); run `headprobe score` again"
        raise HeadprobeError(message, path=path) from error

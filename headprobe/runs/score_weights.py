"""A run without cases: what a model's weights alone say of its heads, in a run's directory."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headprobe.attention.alibi_scope import EPSILON, scopes
from headprobe.files import make_directory
from headprobe.runs.directory import HEADS, RUN, clear, write_json
from headprobe.runs.progress import FILE_NAME as JOURNAL
from headprobe.runs.progress import open_journal
from headprobe.runs.score import versions
from headprobe.scores import FILE_NAME as SCORES
from headprobe.scores import HeadScores
from headprobe.scores.tables import head_table, write_table

if TYPE_CHECKING:
    from headprobe.models.loading import LoadedModel


def score_weights(
    loaded: LoadedModel,
    *,
    task: str,
    out: Path,
    seed: int = 0,
    fresh: bool = False,
) -> HeadScores:
    """Score the heads by the task of that name and write the run directory ``out``.

    It holds no table of cases; the scores stand there as those of one case.

    Raises:
        UsageError: the directory holds another run, and ``fresh`` is not set; or it is a file.
        HeadprobeError: the task is none for this model, or the directory cannot be written.
    """
    plan: dict[str, Any] = {
        "task": task,
        "model": loaded.layout.id,
        "weights": loaded.fingerprint,
        "epsilon": EPSILON,
    }
    started, clock = datetime.now(UTC), time.perf_counter()
    matrix = scopes(loaded.model).numpy()
    result = HeadScores(
        layout=loaded.layout,
        task=task,
        per_case={task: matrix[None]},
        needles=(0,),
        cases=1,
        plan=plan,
        versions=versions(),
    )
    make_directory(out)
    if fresh:
        clear(out)
    with open_journal(out / JOURNAL, plan):
        result.save(out / SCORES)
        write_table(head_table(result, seed=seed), out / HEADS)
        report = {
            "plan": plan,
            "cases": 0,
            "status": "complete",
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - clock, 3),
            "versions": dict(result.versions),
        }
        write_json(report, out / RUN)
    return result

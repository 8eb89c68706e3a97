"""A run without cases: what a model's weights alone say of its heads, in a run's directory."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headprobe import scores
from headprobe.attention import alibi_scope as alibi
from headprobe.files import make_directory
from headprobe.runs import directory as rundir
from headprobe.runs.progress import FILE_NAME as JOURNAL
from headprobe.runs.progress import open_journal
from headprobe.runs.score import versions
from headprobe.scores import HeadScores

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
        "epsilon": alibi.EPSILON,
    }
    started, clock = datetime.now(UTC), time.perf_counter()
    matrix = alibi.scopes(loaded.model).numpy()
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
        rundir.clear(out)
    with open_journal(out / JOURNAL, plan):
        result.save(out / scores.FILE_NAME)
        rundir.write_table(rundir.head_table(result, seed=seed), out / rundir.HEADS)
        report = {
            "plan": plan,
            "cases": 0,
            "status": "complete",
            "started": started.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - clock, 3),
            "versions": dict(result.versions),
        }
        rundir.write_json(report, out / rundir.RUN)
    return result

"""Score heads from a model's weights alone: a run without cases."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from headprobe.attention import alibi_scope
from headprobe.attention.finite import check_weights
from headprobe.runs.directory import HEADS
from headprobe.runs.engine import run_job
from headprobe.runs.identity import Plan
from headprobe.runs.job import Job
from headprobe.runs.result_files import ResultFiles, versions
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
    overwrite: bool = False,
) -> HeadScores:
    """Score the heads by a task that needs only weights, and write the run directory.

    The directory holds no case table; the scores are stored as the scores of one case.

    Args:
        loaded: the model.
        task: the task's name.
        out: the run directory.
        seed: seeds the bootstrap intervals in the table of heads.
        overwrite: replace another run in the directory.

    Raises:
        UsageError: the directory holds another run, and ``overwrite`` is not set; or it is a file.
        HeadprobeError: the task cannot score this model, some weight is NaN or infinite, or the
            directory cannot be written.
    """
    plan = Plan(
        identity={
            "kind": "score",
            "task": task,
            "model_digest": loaded.fingerprint,
            "epsilon": alibi_scope.EPSILON,
        },
        labels={"model": loaded.layout.id},
    )
    check_weights(loaded)
    result = HeadScores(
        layout=loaded.layout,
        task=task,
        per_case={task: alibi_scope.scopes(loaded.model).numpy()[None]},
        needles=(0,),
        cases=1,
        plan=plan.to_json(),
        versions=versions(),
    )

    def finish(_: object, files: ResultFiles) -> HeadScores:
        files.write(HEADS, partial(write_table, head_table(result, seed=seed)))
        files.write_report()
        files.write(SCORES, partial(result.save, files=files.digests))
        return result

    run_job(
        Job(out=out, plan=plan, finish=finish, seal=SCORES, facts={"cases": 0}), overwrite=overwrite
    )
    return result

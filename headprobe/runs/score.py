"""A planned run to its directory: observations, scores, files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from headprobe.errors import HeadprobeError
from headprobe.prompts.case import Case, case_key
from headprobe.runs.case_runner import walk
from headprobe.runs.directory import CASES, HEADS, case_table
from headprobe.runs.distributed import Processes
from headprobe.runs.engine import Job, ResultFiles, Work, run_job, versions
from headprobe.runs.observation import Observation
from headprobe.runs.plan import PlannedRun
from headprobe.runs.progress import Payload
from headprobe.scores import FILE_NAME as SCORES
from headprobe.scores import HeadScores
from headprobe.scores.tables import head_table, write_table
from headprobe.stats.reliability import split_half

if TYPE_CHECKING:
    from headprobe.models.loading import LoadedModel

Observations = Mapping[str, Observation]


def score(
    loaded: LoadedModel,
    run: PlannedRun,
    *,
    overwrite: bool = False,
    processes: Processes | None = None,
    advance: Callable[[], None] = lambda: None,
) -> HeadScores | None:
    """Observe the cases that are not observed yet, then write the run directory.

    With several processes each observes some whole subtrees of the prompts; the main process
    writes what all have observed, the others return None. ``advance`` is called once a case of
    this process, those of an earlier start included.

    Raises:
        UsageError: the directory holds a run with another plan, and ``overwrite`` is not set; or it
            is a file.
        Interrupted: Ctrl-C; what was observed is kept, the same call goes on from there.
        HeadprobeError: no case was accepted (the case table is written all the same), or the
            directory cannot be written.
    """
    keys = [case_key(case) for case in run.cases]
    # Of cases that are alike the first is observed.
    case_of = dict(zip(reversed(keys), reversed(run.cases), strict=True))
    work = Work(
        name="cases",
        keys=keys,
        do=partial(_observe, loaded, run, case_of),
        encode=encode,
        decode=partial(_decode, loaded, run, case_of),
        rounds=[[keys[case_id] for case_id in portion] for portion in run.rounds()],
        is_enough=partial(_is_stable, run, case_of) if run.until_stable is not None else None,
        shards=lambda count: [[keys[i] for i in part] for part in run.tree.parts(count)],
    )
    job = Job(
        out=run.out,
        plan=run.plan,
        work=work,
        finish=partial(_finish, loaded, run, keys),
        seal=SCORES,
        facts={
            "decode": run.decode,
            "layers_without_attention": loaded.layers_without_attention,
            "cost": asdict(run.cost),
        },
    )
    return run_job(job, overwrite=overwrite, processes=processes, advance=advance)


def encode(seen: Observation) -> Payload:
    """Return what is kept of an observation."""
    return Payload(
        fields={
            "generated_ids": list(seen.generated_ids),
            "response": seen.response,
            "success": seen.success,
        },
        arrays={name: scores.astype(np.float32) for name, scores in seen.scores.items()},
    )


def decode(payload: Payload, *, case_id: int, measures: Sequence[str]) -> Observation:
    """Make an observation of what was kept; ``KeyError`` where a measure was not taken."""
    return Observation(
        case_id=case_id,
        generated_ids=tuple(payload.fields["generated_ids"]),
        response=payload.fields["response"],
        success=payload.fields["success"],
        scores={measure: payload.arrays[measure] for measure in measures},
    )


def _observe(
    loaded: LoadedModel, run: PlannedRun, case_of: Mapping[str, Case], wanted: Set[str]
) -> Iterator[tuple[str, Observation]]:
    key_of = {case_of[key].case_id: key for key in wanted}
    for seen in walk(
        loaded,
        run.cases,
        run.task,
        wanted=key_of,
        tree=run.tree,
        decode=run.decode,
        pieces=run.pieces,
    ):
        yield key_of[seen.case_id], seen


def _decode(
    loaded: LoadedModel, run: PlannedRun, case_of: Mapping[str, Case], key: str, payload: Payload
) -> Observation:
    seen = decode(payload, case_id=case_of[key].case_id, measures=run.task.measures)
    shape = (loaded.layout.layers, loaded.layout.heads)
    if any(scores.shape != shape for scores in seen.scores.values()):
        raise ValueError(f"expected scores of shape {shape}")
    return seen


def _is_stable(run: PlannedRun, case_of: Mapping[str, Case], done: Observations) -> bool:
    """Whether what is observed ranks the heads reliably enough to stop."""
    accepted = sorted((seen for seen in done.values() if seen.accepted), key=lambda s: s.case_id)
    if run.until_stable is None or not accepted:
        return False
    found = split_half(
        np.stack([seen.scores[run.task.measures[0]] for seen in accepted]),
        [run.cases[seen.case_id].needle_id for seen in accepted],
        seed=run.seed,
    )
    return found.settled(run.until_stable)


def _finish(
    loaded: LoadedModel,
    run: PlannedRun,
    keys: Sequence[str],
    done: Observations,
    files: ResultFiles,
) -> HeadScores:
    visited = [case for case, key in zip(run.cases, keys, strict=True) if key in done]
    observations = [replace(done[keys[case.case_id]], case_id=case.case_id) for case in visited]
    accepted = sum(seen.accepted for seen in observations)
    files.write(CASES, partial(write_table, case_table(visited, observations)))
    if not accepted:
        files.write_report(accepted=0)
    result = collect(loaded, run, observations)
    files.write(HEADS, partial(write_table, head_table(result, seed=run.seed)))
    reliability = {
        measure: result.reliability(measure, seed=run.seed).to_json() for measure in result.measures
    }
    files.write_report(accepted=accepted, reliability=reliability)
    files.write(SCORES, partial(result.save, files=files.digests))
    return result


def collect(
    loaded: LoadedModel, run: PlannedRun, observations: Sequence[Observation]
) -> HeadScores:
    """Return the scores of the accepted cases.

    Raises:
        HeadprobeError: there is none.
    """
    accepted = [seen for seen in observations if seen.accepted]
    if not accepted:
        best = max(seen.success for seen in observations)
        raise HeadprobeError(
            f"none of {len(observations)} cases was accepted (best success {best:.0f} of 100): "
            f"the model does not pass {run.task_name}, so its heads cannot be scored; see the "
            f"responses in {run.out / CASES}, try shorter `lengths` or another `task`"
        )
    return HeadScores(
        layout=loaded.layout,
        task=run.task_name,
        per_case={
            measure: np.stack([seen.scores[measure] for seen in accepted])
            for measure in run.task.measures
        },
        needles=tuple(run.cases[seen.case_id].needle_id for seen in accepted),
        cases=len(observations),
        plan=run.plan.to_json(),
        versions=versions(),
    )

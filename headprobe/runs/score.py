"""Score the heads of a model: carry out a planned run and write its directory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from headprobe.attention.query_statistics import query_statistics, require_statistics
from headprobe.errors import HeadprobeError, HeadprobeWarning
from headprobe.measures import measure_summary
from headprobe.prompts.case import Case, case_key
from headprobe.prompts.sampling import balanced_order
from headprobe.runs.case_runner import why_not_packed
from headprobe.runs.directory import CASES, HEADS, ROWS, case_table
from headprobe.runs.distributed import Processes
from headprobe.runs.engine import run_job
from headprobe.runs.failures import (
    advice,
    count_failures,
    describe_failures,
)
from headprobe.runs.job import Job, Work
from headprobe.runs.kept_rows import KeptRows, choose_cases, strongest_heads
from headprobe.runs.observation import Observation, encode
from headprobe.runs.observe_rows import observe_rows
from headprobe.runs.observer import CaseObserver, Watch, look_away
from headprobe.runs.plan import PlannedRun
from headprobe.runs.result_files import ResultFiles, versions
from headprobe.scores import FILE_NAME as SCORES
from headprobe.scores import HeadScores
from headprobe.scores.statistics import QueryStatistics
from headprobe.scores.tables import head_table, write_table
from headprobe.scores.utility import UtilityCurves
from headprobe.stats.reliability import split_half

if TYPE_CHECKING:
    from headprobe.models.loading import LoadedModel

Observations = Mapping[str, Observation]
STATISTICS_TOKENS = 32_768
"""Tokens over which queries are averaged: as many as TriAttention's own calibration reads."""


def score(
    loaded: LoadedModel,
    run: PlannedRun,
    *,
    keep_rows: int = 0,
    statistics: bool = False,
    overwrite: bool = False,
    processes: Processes | None = None,
    advance: Callable[[], None] = lambda: None,
    watch: Watch = look_away,
) -> HeadScores | None:
    """Observe the cases that are not observed yet, then write the run directory.

    With several processes each observes some whole subtrees of the prompts; the main process
    writes the results of all, the others return None.

    Args:
        loaded: the model.
        run: the plan, with a decided prompt style.
        keep_rows: the number of cases whose attention rows are kept in a file.
        statistics: average every head's queries over some of the cases.
        overwrite: replace a run with another plan.
        processes: the processes of the run; by default this one alone.
        advance: called once for each case of this process, cases of an earlier start included.
        watch: called with each observation, those of an earlier start first.

    Raises:
        ValueError: the prompt style is not decided.
        UsageError: the directory holds a run with another plan, and ``overwrite`` is not set; or it
            is a file.
        Interrupted: Ctrl-C was pressed; observed cases are kept, the same call goes on from there.
        HeadprobeError: no case passed (the case table is written all the same), or the
            directory cannot be written.
    """
    if run.drawn.writer and run.prompt.used is None:
        raise ValueError(
            "expected a run whose prompt style is decided: `prepare_decided` plans one"
        )
    if statistics:
        require_statistics(loaded)
    keys = [case_key(case) for case in run.cases]
    # Of cases with one key the first is observed.
    case_of = dict(zip(reversed(keys), reversed(run.cases), strict=True))
    warns = processes is None or processes.is_main_process
    one_by_one = why_not_packed(loaded, run.cases, run.task)
    if one_by_one and warns:
        warnings.warn(
            f"prompts that share a path are run one by one, not packed: {one_by_one}",
            HeadprobeWarning,
            stacklevel=2,
        )
    observer = CaseObserver(loaded, run, case_of, packed=not one_by_one, warns=warns, watch=watch)
    work = Work(
        name="cases",
        keys=keys,
        do=observer.observe,
        encode=encode,
        decode=observer.decode,
        rounds=[[keys[case_id] for case_id in portion] for portion in run.rounds()],
        is_enough=partial(_is_stable, run, case_of) if run.until_stable is not None else None,
        shards=lambda count: [[keys[i] for i in part] for part in run.tree.shards(count)],
    )
    job = Job(
        out=run.out,
        plan=run.plan,
        work=work,
        finish=partial(_finish, loaded, run, keys, keep_rows, statistics),
        seal=SCORES,
        facts={
            "decode": run.decode,
            "packed": {"branches": not one_by_one, "reason": one_by_one},
            **({"prompt": run.prompt.to_json()} if run.drawn.writer else {}),
            "layers_without_attention": loaded.layers_without_attention,
            "cost": asdict(run.cost),
        },
    )
    return run_job(job, overwrite=overwrite, processes=processes, advance=advance)


def _is_stable(run: PlannedRun, case_of: Mapping[str, Case], done: Observations) -> bool:
    """Tell whether the observed cases rank the heads reliably enough to stop the run."""
    passed = sorted((seen for seen in done.values() if seen.passed), key=lambda s: s.case_id)
    if run.until_stable is None or not passed:
        return False
    found = split_half(
        np.stack([seen.scores[run.task.measures[0]] for seen in passed]),
        [run.cases[seen.case_id].needle_id for seen in passed],
        seed=run.seed,
    )
    return found.settled(run.until_stable)


def _finish(
    loaded: LoadedModel,
    run: PlannedRun,
    keys: Sequence[str],
    keep_rows: int,
    statistics: bool,
    done: Observations,
    files: ResultFiles,
) -> HeadScores:
    visited = [case for case, key in zip(run.cases, keys, strict=True) if key in done]
    observations = [replace(done[keys[case.case_id]], case_id=case.case_id) for case in visited]
    passed = sum(seen.passed for seen in observations)
    failed = count_failures(run.cases, observations, run.task.probe)
    files.write(CASES, partial(write_table, case_table(visited, observations)))
    # Rows of an earlier start may be of other cases.
    (run.out / ROWS).unlink(missing_ok=True)
    if keep_rows:
        files.write(ROWS, _kept_rows(loaded, run, observations, keep_rows).save)
    if not passed:
        files.write_report(accepted=0, failed=failed)
    result = collect(loaded, run, observations)
    if statistics:
        result = replace(result, query_statistics=_statistics(loaded, run, observations))
    files.write(HEADS, partial(write_table, head_table(result, seed=run.seed)))
    reliability = {
        measure: result.reliability(measure, seed=run.seed).to_json() for measure in result.measures
    }
    files.write_report(
        accepted=passed,
        failed=failed,
        reliability=reliability,
        summaries={measure: measure_summary(measure) for measure in result.measures},
    )
    files.write(SCORES, partial(result.save, files=files.digests))
    return result


def _kept_rows(
    loaded: LoadedModel, run: PlannedRun, observations: Sequence[Observation], count: int
) -> KeptRows:
    """Read the most telling cases again, and keep their attention rows."""
    measure = run.task.measures[0]
    chosen = choose_cases(run.cases, observations, measure, count=count)
    told = [seen for seen in observations if seen.passed] or observations
    heads = strongest_heads(np.mean([seen.scores[measure] for seen in told], axis=0))
    rows = observe_rows(
        loaded,
        run.cases,
        observations,
        chosen,
        probe=run.task.probe,
        heads=heads,
        chunk_sizes=run.chunk_sizes,
    )
    return KeptRows(heads=heads, cases=tuple(rows))


def _statistics(
    loaded: LoadedModel, run: PlannedRun, observations: Sequence[Observation]
) -> QueryStatistics:
    """Average the queries of some cases, prompt and answer, balanced until the tokens are enough.

    They are read a second time: so the means do not depend on where a run was interrupted, nor on
    which prompts shared a prefix.
    """
    seen_of = {seen.case_id: seen for seen in observations}
    texts: list[tuple[int, ...]] = []
    for case in balanced_order([case for case in run.cases if case.case_id in seen_of], run.seed):
        if sum(map(len, texts)) >= STATISTICS_TOKENS:
            break
        texts.append((*case.input_ids, *seen_of[case.case_id].generated_ids))
    return query_statistics(loaded, texts, prefill_chunk=run.chunk_sizes.prefill_chunk)


def collect(
    loaded: LoadedModel, run: PlannedRun, observations: Sequence[Observation]
) -> HeadScores:
    """Return the scores of the cases that passed.

    Raises:
        HeadprobeError: no case passed.
    """
    passed = [seen for seen in observations if seen.passed]
    if not passed:
        failed = count_failures(run.cases, observations, run.task.probe)
        raise HeadprobeError(
            f"none of {len(observations)} cases passed ({describe_failures(failed)}): the "
            f"model does not pass {run.task_name}, so its heads cannot be scored on its own "
            f"answers; see the responses in {run.out / CASES}; {advice(failed)}"
        )
    return HeadScores(
        layout=loaded.layout,
        task=run.task_name,
        per_case={
            measure: np.stack([seen.scores[measure] for seen in passed])
            for measure in run.task.measures
        },
        needles=tuple(run.cases[seen.case_id].needle_id for seen in passed),
        cases=len(observations),
        plan=run.plan.to_json(),
        versions=versions(),
        utility=_utility(run, passed),
    )


def _utility(run: PlannedRun, passed: Sequence[Observation]) -> UtilityCurves | None:
    """Return the curves over the cases that passed, if they were gathered."""
    gains = [seen.utility for seen in passed if seen.utility is not None]
    lengths = [run.cases[seen.case_id].length for seen in passed]
    return UtilityCurves.of(gains, lengths) if run.task.gathers_utility else None

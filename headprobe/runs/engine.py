"""The run engine: do units of work, with resuming, and write a directory of results.

A client (scoring, evaluating, ablating, importing) describes its run as a ``Job``: the plan, the
units of work with a key each, how to do some of them, and how to make the result of all.
``run_job`` owns the rest: the directory and its lock, the check of the plan, progress and resuming,
several processes, stopping early, Ctrl-C, the report, and the order in which result files appear.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from headprobe.errors import HeadprobeWarning, Interrupted
from headprobe.files import make_directory
from headprobe.runs import directory
from headprobe.runs.distributed import Processes
from headprobe.runs.job import Job, Result, Unit, Work
from headprobe.runs.payload import UnreadablePayload
from headprobe.runs.progress import FILE_NAME, Progress, discard_progress, open_progress
from headprobe.runs.result_files import ResultFiles, RunReport

_LOG = logging.getLogger(__name__)


def run_job(
    job: Job[Unit, Result],
    *,
    overwrite: bool = False,
    processes: Processes | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Result | None:
    """Do the units that are not done yet, then write the results.

    With several processes each does a shard of the units, with a progress file of its own; the main
    process collects all and writes the results, the others return None. If a process is killed, it
    loses at most the unit, or the units of one pack, that it was working on.

    Args:
        job: the run.
        overwrite: replace a run with another plan.
        processes: the processes of the run; by default this one alone.
        advance: called once for each unit of this process, units of an earlier start included.

    Raises:
        UsageError: the directory holds a run with another plan, or results whose plan is not known,
            and ``overwrite`` is not set; or it is a file.
        Interrupted: Ctrl-C was pressed; finished units are kept, the same call goes on from there.
        HeadprobeError: another process works in the directory, or a file cannot be written.
    """
    processes = processes or Processes()
    make_directory(job.out)
    with _open(job, processes, overwrite=overwrite) as progress:
        done = _read(job.work, progress)
        _LOG.info("plan of %s: %s", job.out, job.plan.to_json())
        _LOG.info("%d units were done before", len(done))
        report = RunReport(job, progress, processes)
        try:
            with report.until_done():
                _work(job.work, progress, done, processes, advance)
                _gather(job.work, progress, done, processes)
            if processes.is_main_process:
                return job.finish(done, ResultFiles(job, report.finished, progress))
        except KeyboardInterrupt:
            raise Interrupted(f"stopped after {report.reached}; the same command goes on") from None
    discard_progress(_own(job.out, processes))
    return None


@contextmanager
def _open(job: Job[Unit, Result], processes: Processes, *, overwrite: bool) -> Iterator[Progress]:
    """Open this process's progress, after the main process has prepared the directory."""
    if not processes.is_main_process:
        processes.all_gather(None)
    replace = overwrite and processes.is_main_process
    with open_progress(_own(job.out, processes), replace=replace) as progress:
        if processes.is_main_process:
            if overwrite:
                directory.remove_results(job.out)
                progress.clear()
            elif progress.plan is None:
                directory.refuse_results(job.out)
        progress.begin(job.plan)
        if processes.is_main_process:
            _take_shards(job, progress)
            processes.all_gather(None)
        yield progress


def _own(out: Path, processes: Processes) -> Path:
    return out / (
        FILE_NAME if processes.is_main_process else directory.SHARD.format(processes.rank)
    )


def _take_shards(job: Job[Unit, Result], progress: Progress) -> None:
    """Add to the progress the units that other processes of an earlier start left."""
    for path in directory.left_shards(job.out):
        with open_progress(path) as shard:
            shard.begin(job.plan)
            progress.add({key: unit for key, unit in shard.units() if key not in progress.keys})
        discard_progress(path)


def _read(work: Work[Unit] | None, progress: Progress) -> dict[str, Unit]:
    """Return the units that are done; drop wanted units that cannot be decoded."""
    done: dict[str, Unit] = {}
    if work is None:
        return done
    useless, wanted = [], set(work.keys)
    for key, payload in progress.units():
        if key in wanted:
            try:
                done[key] = work.decode(key, payload)
            except UnreadablePayload:
                useless.append(key)
    if useless:
        progress.drop(useless)
    return done


def _work(
    work: Work[Unit] | None,
    progress: Progress,
    done: dict[str, Unit],
    processes: Processes,
    advance: Callable[[], None],
) -> None:
    """Do the units left in this process's shard, round by round, until the work is enough."""
    if work is None:
        return
    repeats = Counter(work.keys)
    done_anywhere = set[str]().union(*processes.all_gather(set(done)))
    own = work.shard(processes)
    if done_anywhere and own - done_anywhere and progress.drift:
        warnings.warn(
            f"going on with other settings ({'; '.join(progress.drift)}): they change the order of "
            "sums, which moves a score by some 1e-4",
            HeadprobeWarning,
            stacklevel=2,
        )
    for _ in range(work.count(own & done_anywhere)):
        advance()
    for keys in work.rounds or [work.keys]:
        for key, unit in work.do(set(keys) & own - done_anywhere):
            progress.add({key: work.encode(unit)})
            done[key] = unit
            _LOG.debug("done: %s", key)
            for _ in range(repeats[key]):
                advance()
        if work.is_enough is not None:
            parts = processes.all_gather(done)
            if work.is_enough({key: unit for part in parts for key, unit in part.items()}):
                return


def _gather(
    work: Work[Unit] | None, progress: Progress, done: dict[str, Unit], processes: Processes
) -> None:
    """Gather all processes' units in the main one; the others wait until they are written."""
    if work is not None:
        for part in processes.gather(done):
            new = {key: unit for key, unit in part.items() if key not in done}
            progress.add({key: work.encode(unit) for key, unit in new.items()})
            done |= new
    processes.all_gather(None)

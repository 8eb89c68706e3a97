"""The run engine: do units of work, with resuming, and write a directory of results.

A client (scoring, evaluating, ablating, importing) describes its run as a ``Job``: the plan, the
units of work with a key each, how to do some of them, and how to make the result of all.
``run_job`` owns the rest: the directory and its lock, the check of the plan, progress and resuming,
several processes, stopping early, Ctrl-C, the report, and the order in which result files appear.
"""

from __future__ import annotations

import logging
import platform
import time
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Generic, TypeVar

from headprobe import __version__
from headprobe.errors import HeadprobeWarning, Interrupted
from headprobe.files import file_digest, make_directory, remove_temporaries
from headprobe.runs import directory
from headprobe.runs.distributed import Processes
from headprobe.runs.progress import (
    FILE_NAME,
    Payload,
    Plan,
    Progress,
    discard_progress,
    open_progress,
)

Unit = TypeVar("Unit")
Result = TypeVar("Result")

_LOG = logging.getLogger(__name__)
_LIBRARIES = ("torch", "transformers", "tokenizers", "numpy")


@dataclass(frozen=True, eq=False, kw_only=True)
class Work(Generic[Unit]):
    """The units of work of a run.

    Args:
        name: the word for the units, as in "cases".
        keys: a digest of all that decides each unit; a repeated key is done once.
        do: do the units of some keys; yield each with its key as soon as it is done.
        encode: return the payload to keep of a unit.
        decode: make a unit from its key and payload; ``KeyError``, ``TypeError`` or ``ValueError``
            where this is impossible, and the unit is done again.
        rounds: the keys in portions, which are done one after the other; all at once by default.
        is_enough: tell, from all units done after a round, whether the run may stop there.
        shards: split the keys into a number of shards, one for each process.
    """

    name: str
    keys: Sequence[str]
    do: Callable[[Set[str]], Iterable[tuple[str, Unit]]]
    encode: Callable[[Unit], Payload]
    decode: Callable[[str, Payload], Unit]
    rounds: Sequence[Collection[str]] | None = None
    is_enough: Callable[[Mapping[str, Unit]], bool] | None = None
    shards: Callable[[int], Sequence[Collection[str]]] | None = None

    def shard(self, processes: Processes) -> Set[str]:
        """Return the keys that this process does."""
        if self.shards is not None:
            return set(self.shards(processes.count)[processes.rank])
        return set(list(dict.fromkeys(self.keys))[processes.rank :: processes.count])

    def count(self, done: Collection[str]) -> int:
        """Count the units that are done; a repeated unit counts each time."""
        return sum(key in done for key in self.keys)


@dataclass(frozen=True, eq=False, kw_only=True)
class Job(Generic[Unit, Result]):
    """A run, as its client describes it.

    Args:
        out: the directory.
        plan: its identity must equal an earlier run's in ``out`` to go on from that run.
        work: the units, if there are any.
        finish: make the result from all units by key, and write its files.
        report: the name of the JSON file that reports on the run.
        seal: the name of the file without which the directory holds no result; written last.
        facts: further fields of the report.
    """

    out: Path
    plan: Plan
    work: Work[Unit] | None = None
    finish: Callable[[Mapping[str, Unit], ResultFiles], Result]
    report: str = directory.RUN
    seal: str
    facts: Mapping[str, Any] = field(default_factory=dict)


class ResultFiles:
    """Writes the files of a result while the directory is locked.

    The old seal is removed first and the new one is written last, with the digests of the other
    files: if the process is killed in between, no mixture of two results is taken for one. If the
    directory is removed in between, it is not made anew for the files that are left.
    """

    def __init__(self, job: Job[Any, Any], report: Callable[..., None], progress: Progress) -> None:
        self._out = job.out
        self._job = job
        self._report = report
        self._progress = progress
        self._digests: dict[str, str] = {}
        (job.out / job.seal).unlink(missing_ok=True)
        remove_temporaries(job.out, directory.RESULTS)

    @property
    def digests(self) -> Mapping[str, str]:
        """The SHA-256 of each file that was written, by name."""
        return self._digests

    def write(self, name: str, save: Callable[[Path], None]) -> None:
        """Write one file with the function ``save``, which gets its path.

        Raises:
            HeadprobeError: the directory was removed, or the file cannot be written.
        """
        self._progress.require_file()
        path = self._out / name
        save(path)
        _LOG.info("wrote %s", path)
        self._digests[name] = file_digest(path)

    def write_report(self, **found: Any) -> None:
        """Write the report, with the fields ``found``."""
        fields = found | {"files": dict(self._digests)}
        self.write(self._job.report, lambda _: self._report(**fields))


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
        report = _Report(job, progress, processes)
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


def versions() -> dict[str, str]:
    """Return the versions of headprobe, Python and the libraries that results may depend on."""
    found = {"headprobe": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


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
            except (KeyError, TypeError, ValueError):
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


class _Report:
    """Writes the JSON file with a run's settings, its finished units and the time it took."""

    def __init__(self, job: Job[Any, Any], progress: Progress, processes: Processes) -> None:
        self._job = job
        self._progress = progress
        self._processes = processes
        self._resumed_from = self._observed
        self._started = datetime.now(UTC)
        self._clock = time.perf_counter()

    @property
    def reached(self) -> str:
        """The count of finished units, as in "3 of 8 cases"."""
        name = self._job.work.name if self._job.work else "steps"
        return f"{self._observed} of {self._total} {name}"

    @contextmanager
    def until_done(self) -> Iterator[None]:
        """Report that the run stopped if the block ends by an error or Ctrl-C."""
        try:
            yield
        except BaseException:
            # A report that serves as the seal is written only with a result.
            seals = self._job.report == self._job.seal
            if self._processes.is_main_process and not seals and self._job.out.is_dir():
                self._write(status="stopped")
            raise

    def finished(self, **found: Any) -> None:
        """Report that the run is complete, or stable, with the fields ``found``."""
        self._write(status="complete" if self._observed == self._total else "stable", **found)

    @property
    def _observed(self) -> int:
        return self._job.work.count(self._progress.keys) if self._job.work else 0

    @property
    def _total(self) -> int:
        return len(self._job.work.keys) if self._job.work else 0

    def _write(self, *, status: str, **found: Any) -> None:
        work = self._job.work
        fields = {
            "status": status,
            "plan": self._job.plan.to_json(),
            **({work.name: self._total, "observed": self._observed} if work else {}),
            "resumed_from": self._resumed_from,
            "processes": self._processes.count,
            "started": self._started.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - self._clock, 3),
            "versions": versions(),
            **self._job.facts,
            **found,
        }
        directory.write_json(fields, self._job.out / self._job.report)

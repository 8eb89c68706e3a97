"""Write the files of a result, and the report on the run that made them."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from headprobe import __version__
from headprobe.files import file_digest, remove_temporaries
from headprobe.runs import directory
from headprobe.runs.distributed import Processes
from headprobe.runs.job import Job
from headprobe.runs.progress import Progress

_LOG = logging.getLogger(__name__)
_LIBRARIES = ("torch", "transformers", "tokenizers", "numpy")


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


class RunReport:
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


def versions() -> dict[str, str]:
    """Return the versions of headprobe, Python and the libraries that results may depend on."""
    found = {"headprobe": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

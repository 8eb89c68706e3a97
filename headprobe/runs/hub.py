"""Runs that travel: a run directory as a repository of the Hugging Face hub, there and back.

Wherever a run is named, ``hf:owner/name`` or ``hf:owner/name@revision`` names one on the hub. Its
files lie in the hub's cache then, so that it is there without a network the next time.
"""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from logging import ERROR
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headprobe import __version__
from headprobe.errors import HeadprobeError, UsageError
from headprobe.files import atomic_write, file_digest
from headprobe.inputs.printable import printable
from headprobe.runs.directory import (
    CASES,
    HEADS,
    ROOT,
    ROWS,
    RUN,
    newest_run,
    read_cases,
    read_report,
)
from headprobe.runs.engine import run_job
from headprobe.runs.identity import Plan
from headprobe.runs.job import Job
from headprobe.runs.kept_rows import read_rows
from headprobe.runs.result_files import ResultFiles
from headprobe.scores import FILE_NAME as SCORES
from headprobe.scores import HeadScores, recorded_digests

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

PREFIX = "hf:"
FILES = (HEADS, CASES, ROWS, RUN, SCORES)
"""The files of a run that travel, that which makes a directory valid last; no others are read."""
LARGEST = 2**30
"""The most bytes of a file that is fetched."""
_ANSWER_SECONDS = 5
_SNAPSHOT = re.compile(r"models--(?P<name>.+)/snapshots/(?P<commit>[0-9a-f]{40})$")
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


@dataclass(frozen=True, kw_only=True)
class HubName:
    """The name of a run on the hub; without a ``revision`` it is the newest commit's."""

    repository: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubName:
        """Read ``owner/name``, with ``hf:`` before it or not, and ``@revision`` after it or not.

        Raises:
            UsageError: the text is no such name.
        """
        repository, at, revision = text.removeprefix(PREFIX).partition("@")
        # What the hub itself refuses is said by it.
        if not repository or (at and not revision):
            message = f"expected {PREFIX}owner/name or {PREFIX}owner/name@revision, got {text!r}"
            raise UsageError(message)
        return cls(repository=repository, revision=revision or None)

    def __str__(self) -> str:
        return f"{PREFIX}{self.repository}" + (f"@{self.revision}" if self.revision else "")

    @property
    def place(self) -> Path:
        """The directory for the run and what is made of it, ``outputs/<owner>--<name>``."""
        return ROOT / self.repository.replace("/", "--")


def local_run(named: Path | None) -> Path:
    """Return where a run lies: the newest where none is named, of ``hf:...`` its cached copy.

    Raises:
        UsageError: there is no run, or the name is none of the hub.
        HeadprobeError: the hub does not provide the run.
    """
    if named is None:
        return newest_run()
    return fetch_run(HubName.parse(str(named))) if is_on_hub(named) else named


def local_runs(named: Sequence[Path]) -> list[Path]:
    """Return where runs lie, as ``local_run``; the newest alone where none is named."""
    return [local_run(each) for each in named] or [newest_run()]


def is_on_hub(named: Path) -> bool:
    """Return whether a run is named as one on the hub."""
    return str(named).startswith(PREFIX)


def place_of(run: Path) -> Path:
    """Return the directory that files about a run go to: its own, but not the hub's cache."""
    name = HubName.parse(str(run)) if is_on_hub(run) else _cached_name(run)
    if name is not None:
        return name.place
    return run if run.is_dir() else run.parent


def shown_name(run: Path) -> str:
    """Name a run for people: a copy of one on the hub by its name and commit, others by path."""
    return str(_cached_name(run) or run)


def fetch_run(name: HubName) -> Path:
    """Bring a run of the hub into the hub's cache; return the directory of the copy.

    Without a network the copy of an earlier time is taken. Only files of runs are fetched.

    Raises:
        UsageError: the name cannot be one of the hub.
        HeadprobeError: there is no such run, or no access to it; a file is larger than ``LARGEST``.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import DryRunError

    snapshot = partial(
        snapshot_download,
        name.repository,
        revision=name.revision,
        allow_patterns=list(FILES),
        etag_timeout=_ANSWER_SECONDS,
        library_name="headprobe",
        library_version=__version__,
    )
    with asking(name):
        try:
            planned: Any = snapshot(dry_run=True)
        except DryRunError:
            # Out of reach: what is cached is taken, or the next call says why there is nothing.
            pass
        else:
            _check_sizes(name, {file.filename: file.file_size or 0 for file in planned})
        directory = Path(snapshot())
    if not (directory / SCORES).is_file():
        raise HeadprobeError(f"{name} is no run: it has no {SCORES}; give the name of another")
    _check_sizes(name, {path.name: path.stat().st_size for path in run_files(directory)})
    return directory


def pull_run(name: HubName, out: Path | None = None, *, overwrite: bool = False) -> Path:
    """Make a run directory of a run on the hub; return it.

    All files are read, as any command would read them, before one is written.

    Args:
        name: the run.
        out: the directory, by default ``name.place``.
        overwrite: replace another run in the directory.

    Raises:
        UsageError: the name cannot be one of the hub, or ``out`` holds another run.
        HeadprobeError: the hub does not provide the run, or a file of it is damaged.
    """
    source = fetch_run(name)
    scores = check_run(source)
    out = out or name.place
    job: Job[Any, None] = Job(
        out=out,
        plan=Plan(
            identity={"kind": "pull", "sha256": file_digest(source / SCORES)},
            labels={"repository": shown_name(source), "model": scores.layout.id},
        ),
        finish=lambda _, files: _copy(source, files),
        seal=SCORES,
    )
    run_job(job, overwrite=overwrite)
    return out


def check_run(run: Path) -> HeadScores:
    """Read all files of a run that travel, as the commands read them; return its scores.

    Raises:
        UsageError: there are no scores.
        HeadprobeError: a file is damaged, or of another run than the scores.
    """
    scores = HeadScores.load(run)
    recorded = recorded_digests(run)
    for path in run_files(run):
        if recorded.get(path.name, digest := file_digest(path)) != digest:
            message = f"{path} is of another run than the {SCORES} beside it"
            raise HeadprobeError(message, path=path)
    read_report(run)
    read_cases(run)
    read_rows(run)
    return scores


def _copy(source: Path, files: ResultFiles) -> None:
    for path in run_files(source):
        files.write(path.name, partial(_copy_file, path))


def _copy_file(source: Path, path: Path) -> None:
    with atomic_write(path) as whole:
        shutil.copyfile(source, whole)


def run_files(run: Path) -> list[Path]:
    """List the files of a run that travel, the scores last."""
    return [run / name for name in FILES if (run / name).is_file()]


def check_sizes(files: Sequence[Path]) -> None:
    """Refuse files that nobody could fetch again.

    Raises:
        HeadprobeError: a file is larger than ``LARGEST``.
    """
    for file in files:
        if (size := file.stat().st_size) > LARGEST:
            raise HeadprobeError(
                f"{file} has {size:,} bytes, more than the {LARGEST:,} of a run's file that are "
                "fetched from the hub; score fewer cases or measures, or keep fewer rows",
                path=file,
            )


def _check_sizes(name: HubName, sizes: Mapping[str, int]) -> None:
    for file, size in sizes.items():
        if size > LARGEST:
            raise HeadprobeError(
                f"{file} of {name} has {size:,} bytes, more than the {LARGEST:,} of a run's file: "
                "look at it on the hub before you trust it"
            )


def _cached_name(run: Path) -> HubName | None:
    """Return the name on the hub of a run in the hub's cache."""
    found = _SNAPSHOT.search((run if run.is_dir() else run.parent).as_posix())
    if found is None:
        return None
    return HubName(repository=found["name"].replace("--", "/", 1), revision=found["commit"])


@contextmanager
def asking(name: HubName) -> Iterator[None]:
    """Ask the hub quietly; turn its errors into lines that say what to do next.

    Raises:
        UsageError: ``name`` cannot be a name of the hub.
        HeadprobeError: the hub is out of reach, or refuses.
    """
    from huggingface_hub import constants, errors
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    try:
        with _quiet():
            yield
    except errors.HFValidationError:
        message = f"{name} cannot be a name of the hub: expected owner/name"
        raise UsageError(message) from None
    except errors.GatedRepoError:
        raise HeadprobeError(
            f"{name} is gated: ask for access on its page, then {_LOG_IN}"
        ) from None
    except errors.RepositoryNotFoundError:
        raise HeadprobeError(
            f"no {name} on the hub, or it is private: check the name, or {_LOG_IN}"
        ) from None
    except errors.RevisionNotFoundError:
        raise HeadprobeError(f"{name}: no such revision; give a branch, tag or commit") from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        again = "unset HF_HUB_OFFLINE" if constants.HF_HUB_OFFLINE else "try where a network is"
        raise HeadprobeError(
            f"the hub is out of reach, and {name} is not in its cache: {again}"
        ) from None
    except errors.HfHubHTTPError as error:
        raise HeadprobeError(_refused(name, error)) from None
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        message = f"{name} is out of reach: {printable(str(error))}; try again"
        raise HeadprobeError(message) from None


def _refused(name: HubName, error: HfHubHTTPError) -> str:
    status = error.response.status_code
    if status == 401:
        return f"the hub knows no user with access to {name}: {_LOG_IN}"
    if status == 403:
        return f"this token gives no access to {name}: {_LOG_IN} with one that does"
    said = f" ({printable(error.server_message)})" if error.server_message else ""
    return f"the hub answered {status} when asked for {name}{said}; try again later"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence bars, logs and warnings of huggingface_hub and what it calls inside the block."""
    from huggingface_hub.utils import logging
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    verbosity, are_off = logging.get_verbosity(), are_progress_bars_disabled()
    logging.set_verbosity(ERROR)
    disable_progress_bars()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        if not are_off:
            enable_progress_bars()

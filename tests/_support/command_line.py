"""``headprobe`` as it is typed: in this process, or in one of its own where that is the matter."""

from __future__ import annotations

import io
import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import chdir, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TextIO
from unittest.mock import patch

from headprobe.cli import app
from headprobe.errors import HeadprobeError, HeadprobeWarning

TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


@dataclass(frozen=True, kw_only=True)
class Done:
    """What a command left; ``error`` is the one that became its line on stderr."""

    returncode: int
    stdout: str
    stderr: str
    error: HeadprobeError | None = None

    def json(self) -> Any:
        return json.loads(self.stdout)

    def only_line(self) -> str:
        """The one line on stderr."""
        lines = [line for line in self.stderr.splitlines() if line.strip()]
        assert len(lines) == 1, self.stderr
        return lines[0]


def headprobe(*arguments: str | Path, cwd: Path | None = None, columns: int = 120) -> Done:
    """Run a command in this process, as ``main`` runs it, in the folder ``cwd``."""
    stdout, stderr = _stream(), _stream()
    errors: list[HeadprobeError] = []

    def word(error: HeadprobeError) -> str:
        errors.append(error)
        return worded(error)

    worded = app.worded
    with (
        chdir(cwd) if cwd else nullcontext(),
        patch.dict(os.environ, {"COLUMNS": str(columns)}),
        patch.object(app, "worded", word),
        redirect_stdout(stdout),
        redirect_stderr(stderr),
        _logs_to(stderr),
        warnings.catch_warnings(),
    ):
        # Ours are lines of text to a user; others stay errors.
        warnings.filterwarnings("default", category=HeadprobeWarning)
        code = app.main([str(argument) for argument in arguments])
    return Done(
        returncode=code, stdout=_text(stdout), stderr=_text(stderr), error=next(iter(errors), None)
    )


def succeed(*arguments: str | Path, cwd: Path | None = None, columns: int = 120) -> Done:
    """Run a command in this process that is to end well."""
    done = headprobe(*arguments, cwd=cwd, columns=columns)
    assert done.returncode == 0, done.stderr
    return done


def refusal(*arguments: str | Path, cwd: Path | None = None) -> HeadprobeError:
    """Run a command in this process that is to end with an error, told in the last line."""
    done = headprobe(*arguments, cwd=cwd)
    assert done.error is not None, done.stderr
    assert done.returncode == done.error.exit_code
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert done.stdout == ""
    return done.error


def process(
    *command: str, cwd: Path, stdout: int | IO[str] = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run ``python`` with these arguments in a process of its own."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=os.environ | {"COLUMNS": "120"} | environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
        check=False,
    )


def torchrun(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in two processes."""
    return process("-m", *TORCHRUN, "headprobe", *arguments, cwd=cwd)


def _stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)


def _text(stream: io.TextIOWrapper) -> str:
    kept = stream.buffer
    assert isinstance(kept, io.BytesIO)
    return kept.getvalue().decode()


@contextmanager
def _logs_to(stream: TextIO) -> Iterator[None]:
    """What libraries log, which went to the stderr of when they were imported, goes to a stream."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = {
        handler
        for logger in loggers
        if isinstance(logger, logging.Logger)
        for handler in logger.handlers
        if type(handler) is logging.StreamHandler
    }
    before = {handler: handler.setStream(stream) for handler in handlers}
    try:
        yield
    finally:
        for handler, own in before.items():
            handler.setStream(own or stream)

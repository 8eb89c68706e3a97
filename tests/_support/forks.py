"""``headprobe`` in processes that begin as copies of this one, so that nothing is imported anew."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from headprobe.cli import app
from tests._support.command_line import Done

_MOST_SECONDS = 240


def forked(
    *arguments: str | Path, cwd: Path, count: int = 1, first: Callable[[], None] = lambda: None
) -> list[Done]:
    """Run a command in ``count`` processes, which find one another as torchrun's do.

    Each calls ``first`` before it begins. A process that does not end is ended by an alarm.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    joined = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count)}
    with tempfile.TemporaryDirectory() as folder:
        children = []
        for rank in range(count):
            said = Path(folder, f"{rank}.out"), Path(folder, f"{rank}.err")
            with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
                number = os.fork()
            if not number:
                rank_of = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                _become([*map(str, arguments)], cwd, said, joined | rank_of, first)
            children.append((number, said))
        return [
            Done(
                returncode=os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]),
                stdout=out.read_text(encoding="utf-8"),
                stderr=err.read_text(encoding="utf-8"),
            )
            for number, (out, err) in children
        ]


def _become(
    arguments: Sequence[str],
    cwd: Path,
    said: tuple[Path, Path],
    environment: dict[str, str],
    first: Callable[[], None],
) -> None:
    """Run the command in this child process, and end it."""
    code = 1
    try:
        signal.alarm(_MOST_SECONDS)
        os.chdir(cwd)
        sys.stdout, sys.stderr = (path.open("w", encoding="utf-8", buffering=1) for path in said)
        os.environ |= environment | {"COLUMNS": "120", "TOKENIZERS_PARALLELISM": "false"}
        warnings.resetwarnings()
        first()
        code = app.main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            # One may lead to a full device.
            with suppress(OSError):
                stream.flush()
        os._exit(code)

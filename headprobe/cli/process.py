"""Prepare the process of the command line: environment, standard streams and signals.

What others leave in a process must not decide how a run ends: a terminal's width that is no number,
a notebook's backend for pictures, a closed stdout, a full disk that stderr goes to, ``kill`` in the
middle.
"""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
from contextlib import suppress
from threading import Timer
from types import FrameType
from typing import Any, TextIO

_SIZES = ("COLUMNS", "LINES", "TERMINAL_WIDTH")
# 1 to 9,999: a wider terminal would cost memory for every line.
_SIZE = re.compile("[1-9][0-9]{0,3}")
# Windows has no SIGHUP.
_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if name in dir(signal)
]
# New objects after which Python looks for garbage. A library's import makes a million that stay: at
# Python's own 700, looking for garbage among them takes a fifth of the start.
_NEW_OBJECTS = 50_000
# Seconds after which a signal that Python lost is given again.
_AGAIN = 0.05
_received: list[int] = []


def set_up() -> None:
    """Prepare the process before the command line is imported."""
    clean_environment()
    open_streams()
    stop_on_signals()
    gc.set_threshold(_NEW_OBJECTS)


def clean_environment() -> None:
    """Remove variables that rich, typer and matplotlib would fail on when they are imported."""
    for name in _SIZES:
        if not _SIZE.fullmatch(os.environ.get(name, "1")):
            del os.environ[name]
    # Pictures are files, so the backend of a window or a notebook has no use.
    os.environ.pop("MPLBACKEND", None)


def open_streams() -> None:
    """Open closed standard streams on the null device, and let stderr drop what it cannot write.

    A file that is opened later would get the number of a closed stream, and with it the output.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or _null()
    sys.stderr = DroppingStream(sys.stderr or _null())
    with suppress(AttributeError, ValueError):
        if sys.stdout.errors == "strict":
            sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


class DroppingStream:
    """A text stream that drops what it cannot write, so that saying something never fails."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write the text, or drop it and all that follows."""
        try:
            return int(self._stream.write(text))
        except (OSError, ValueError):
            discard(self._stream)
            return len(text)

    def flush(self) -> None:
        """Flush the stream, or drop what it holds and all that follows."""
        try:
            self._stream.flush()
        except (OSError, ValueError):
            discard(self._stream)


def discard(stream: Any) -> None:
    """Send what is left to be written to a stream nowhere, so that Python does not try again."""
    # What a program has put in the stream's place may be no file.
    with suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def stop_on_signals() -> None:
    """Raise ``KeyboardInterrupt`` on SIGTERM and SIGHUP too, so that temporary files are removed.

    A signal that is ignored, as in a shell's background jobs and after ``nohup``, stays ignored.
    """
    for number in _SIGNALS:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _stop)
    sys.unraisablehook = _stop_again


def signal_received() -> int | None:
    """Return the number of the first signal that stopped this process, if there was one."""
    return _received[0] if _received else None


def end_quietly() -> None:
    """Let the process end at once, and further signals end it without a word: its work is done.

    A process that ends looks for garbage in all that libraries have made, which takes a tenth of a
    short run; what is set aside is not looked at.
    """
    for number in _SIGNALS:
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.SIG_DFL)
    gc.freeze()


def _stop(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    raise KeyboardInterrupt


def _stop_again(lost: Any) -> None:
    """Give a signal again that arrived in a destructor, where Python drops what is raised."""
    if not _received or not issubclass(lost.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    again = Timer(_AGAIN, _send_again)
    again.daemon = True
    again.start()


def _send_again() -> None:
    number = _received[0]
    # Unless the work was done in between.
    if signal.getsignal(number) is _stop:
        os.kill(os.getpid(), number)


def _null() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")

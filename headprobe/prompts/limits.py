"""Limit the time and the memory of code that comes with a model's files.

A chat template is a program: it may loop for ever, or multiply a text until the memory is full.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import current_thread, main_thread
from types import FrameType

_STATM = Path("/proc/self/statm")


@contextmanager
def limited(*, seconds: float, more_bytes: int) -> Iterator[None]:
    """Stop what runs inside the block if it takes too much time or memory.

    The time is the process's own, so that a busy machine does not count; it is limited in the main
    thread alone, and the memory on Linux alone.

    Args:
        seconds: the most processor time.
        more_bytes: the most memory beyond what the process has now.

    Raises:
        TimeoutError: the time is over.
        MemoryError: the memory is used up.
    """
    with _time_limit(seconds), _memory_limit(more_bytes):
        yield


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    if not hasattr(signal, "setitimer") or current_thread() is not main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"it takes more than {seconds:g} seconds")

    before = signal.signal(signal.SIGVTALRM, stop)
    # Again and again, for Python drops what is raised in a destructor.
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextmanager
def _memory_limit(more_bytes: int) -> Iterator[None]:
    if not _STATM.exists():
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(_STATM.read_text().split()[0])
    wanted = pages * resource.getpagesize() + more_bytes
    with suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (_least(wanted, soft), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _least(wanted: int, soft: int) -> int:
    import resource

    return wanted if soft == resource.RLIM_INFINITY else min(wanted, soft)

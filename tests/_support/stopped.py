"""A run that is stopped from inside: it sends itself a signal when it has written some units."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping

from torch import distributed

from headprobe.runs.payload import Payload
from headprobe.runs.progress import Progress


def stop_after(cases: int, name: str) -> None:
    """Make this process send itself the signal ``name`` when it has written progress so often.

    Of several processes, each does so when all have.
    """
    add, written = Progress.add, [0]

    def add_and_stop(progress: Progress, units: Mapping[str, Payload]) -> None:
        add(progress, units)
        written[0] += bool(units)
        if units and written[0] == cases:
            if distributed.is_initialized():
                distributed.barrier()
            os.kill(os.getpid(), signal.Signals[name])

    # A shell's background jobs are started deaf to it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    Progress.add = add_and_stop  # type: ignore[method-assign]

"""``python stopped.py SIGKILL 3 score ...``: a ``headprobe`` that is stopped from inside.

It sends itself the signal when it has written its progress that often; of several processes, each
does so when all have.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping

from torch import distributed

from headprobe.cli import main
from headprobe.runs.payload import Payload
from headprobe.runs.progress import Progress

number, cases = signal.Signals[sys.argv.pop(1)], int(sys.argv.pop(1))
written = 0
add = Progress.add


def add_and_stop(progress: Progress, units: Mapping[str, Payload]) -> None:
    global written
    add(progress, units)
    written += bool(units)
    if units and written == cases:
        if distributed.is_initialized():
            distributed.barrier()
        os.kill(os.getpid(), number)


if __name__ == "__main__":
    # A shell's background jobs are started deaf to it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    Progress.add = add_and_stop  # type: ignore[method-assign]
    sys.exit(main())

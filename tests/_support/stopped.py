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

from headprobe.cli.app import main
from headprobe.runs.payload import Payload
from headprobe.runs.progress import Progress


def stop_after(cases: int, name: str) -> None:
    """Make this process send itself the signal ``name`` after so many cases."""
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


if __name__ == "__main__":
    name, cases = sys.argv.pop(1), int(sys.argv.pop(1))
    stop_after(cases, name)
    sys.exit(main())

"""The clock of the benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def wait_for(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds_on(device: torch.device) -> float:
    """A clock: on a CPU this process's own seconds, since other work shares the machine."""
    wait_for(device)
    return time.process_time() if device.type == "cpu" else time.perf_counter()


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds that work takes, by the clock of its device."""
    start = seconds_on(device)
    work()
    return seconds_on(device) - start

"""Join the processes of one run, as ``torchrun`` and ``accelerate launch`` start them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from headprobe.errors import HeadprobeError, HeadprobeWarning

# Processes wait for one another until the slowest has done its cases.
_PATIENCE = timedelta(days=7)
# The time that a process waits for the others to start.
_START = timedelta(minutes=10)
_VARIABLES = ("WORLD_SIZE", "RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process, number ``rank`` of ``count``; ``local`` is its number on its machine."""

    rank: int = 0
    count: int = 1
    local: int = 0

    @property
    def is_main_process(self) -> bool:
        """True for the one process that prints and writes for all."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """Return the device that ``auto`` means for this process: its own GPU, if there is one."""
        if name == "auto" and self.count > 1:
            import torch

            if torch.cuda.is_available():
                return f"cuda:{self.local % torch.cuda.device_count()}"
        return name

    def all_gather(self, item: Any) -> list[Any]:
        """Return the items of all processes, in order of their ranks; wait for every process."""
        items: list[Any] = [item] * self.count
        if self.count > 1:
            from torch import distributed

            distributed.all_gather_object(items, item)
        return items

    def gather(self, item: Any) -> list[Any]:
        """Return in the main process all processes' items, by rank; elsewhere an empty list."""
        items: list[Any] = [item] * self.count if self.is_main_process else []
        if self.count > 1:
            from torch import distributed

            distributed.gather_object(item, items if self.is_main_process else None)
        return items


@contextmanager
def init_distributed(
    say: Callable[[str], None] = lambda line: None, *, start: timedelta = _START
) -> Iterator[Processes]:
    """Join the processes that a launcher started with this one, if one did.

    Where the environment has only some of a launcher's variables, as a notebook or an earlier job
    leaves them, this process works alone, with a warning.

    Args:
        say: called with a line that says what this process waits for.
        start: how long to wait for the others.

    Raises:
        HeadprobeError: the other processes do not start.
    """
    found = _launched()
    if found is None:
        yield Processes()
        return
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    if found.is_main_process:
        say(f"waiting at {place} for all {found.count} processes, as WORLD_SIZE says")
    try:
        store, _, _ = next(rendezvous("env://", timeout=start))
        distributed.init_process_group(
            "gloo", store=store, rank=found.rank, world_size=found.count, timeout=_PATIENCE
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise HeadprobeError(
            f"{found.count} processes were to meet at {place} and did not: start them all by "
            "torchrun, or unset WORLD_SIZE to run this one alone"
        ) from error
    try:
        yield found
    finally:
        distributed.destroy_process_group()


def _launched() -> Processes | None:
    """Return this process's number among a launcher's processes, from its variables."""
    given = {name: os.environ[name] for name in _VARIABLES if os.environ.get(name)}
    numbers = {name: os.environ.get(name, "") for name in ("WORLD_SIZE", "RANK", "MASTER_PORT")}
    whole = len(given) == len(_VARIABLES) and all(map(str.isdecimal, numbers.values()))
    count = int(given["WORLD_SIZE"]) if whole else 1
    if whole and (count == 1 or int(given["RANK"]) < count):
        local = os.environ.get("LOCAL_RANK", "")
        return (
            Processes(
                rank=int(given["RANK"]), count=count, local=int(local) if local.isdecimal() else 0
            )
            if count > 1
            else None
        )
    if given.get("WORLD_SIZE", "1") != "1":
        warnings.warn(
            f"WORLD_SIZE is {given['WORLD_SIZE']!r:.20}, but {', '.join(_VARIABLES)} are not all "
            "set as a launcher sets them: working as one process",
            HeadprobeWarning,
            stacklevel=3,
        )
    return None

"""Several processes on one run, as ``torchrun`` and ``accelerate launch`` start them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

# Processes meet when the slowest is through its cases.
_PATIENCE = timedelta(days=7)


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process, number ``rank`` of ``count``; ``local`` is its number on its machine."""

    rank: int = 0
    count: int = 1
    local: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def device(self, name: str) -> str:
        """The device that ``auto`` means for this process: a GPU of its own where there are any."""
        if name == "auto" and self.count > 1 and torch.cuda.is_available():
            return f"cuda:{self.local % torch.cuda.device_count()}"
        return name

    def share(self, item: Any) -> list[Any]:
        """The items of all processes, in order of their ranks; waits for every process."""
        items: list[Any] = [item] * self.count
        if self.count > 1:
            distributed.all_gather_object(items, item)
        return items

    def collect(self, item: Any) -> list[Any]:
        """In the first process the items of all, in order of their ranks; in the others none."""
        items: list[Any] = [item] * self.count if self.is_first else []
        if self.count > 1:
            distributed.gather_object(item, items if self.is_first else None)
        return items


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that were started with this one, if any were."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes()
        return
    distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield Processes(
            rank=distributed.get_rank(), count=count, local=int(os.environ.get("LOCAL_RANK", "0"))
        )
    finally:
        distributed.destroy_process_group()

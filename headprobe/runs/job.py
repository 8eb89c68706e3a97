"""The record of a run for the run engine: a job, and the units of work in it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from headprobe.runs import directory
from headprobe.runs.distributed import Processes
from headprobe.runs.identity import Plan
from headprobe.runs.payload import Payload

if TYPE_CHECKING:
    from headprobe.runs.result_files import ResultFiles

Unit = TypeVar("Unit")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False, kw_only=True)
class Work(Generic[Unit]):
    """The units of work of a run.

    Args:
        name: the word for the units, as in "cases".
        keys: a digest of all that decides each unit; a repeated key is done once.
        do: do the units of some keys; yield each with its key as soon as it is done.
        encode: return the payload to keep of a unit.
        decode: make a unit from its key and payload; ``UnreadablePayload`` where this is
            impossible, and the unit is done again.
        rounds: the keys in portions, which are done one after the other; all at once by default.
        is_enough: tell, from all units done after a round, whether the run may stop there.
        shards: split the keys into a number of shards, one for each process.
    """

    name: str
    keys: Sequence[str]
    do: Callable[[Set[str]], Iterable[tuple[str, Unit]]]
    encode: Callable[[Unit], Payload]
    decode: Callable[[str, Payload], Unit]
    rounds: Sequence[Collection[str]] | None = None
    is_enough: Callable[[Mapping[str, Unit]], bool] | None = None
    shards: Callable[[int], Sequence[Collection[str]]] | None = None

    def shard(self, processes: Processes) -> Set[str]:
        """Return the keys that this process does."""
        if self.shards is not None:
            return set(self.shards(processes.count)[processes.rank])
        return set(list(dict.fromkeys(self.keys))[processes.rank :: processes.count])

    def count(self, done: Collection[str]) -> int:
        """Count the units that are done; a repeated unit counts each time."""
        return sum(key in done for key in self.keys)


@dataclass(frozen=True, eq=False, kw_only=True)
class Job(Generic[Unit, Result]):
    """A run, as its client describes it.

    Args:
        out: the directory.
        plan: its identity must equal an earlier run's in ``out`` to go on from that run.
        work: the units, if there are any.
        finish: make the result from all units by key, and write its files.
        report: the name of the JSON file that reports on the run.
        seal: the name of the file without which the directory holds no result; written last.
        facts: further fields of the report.
    """

    out: Path
    plan: Plan
    work: Work[Unit] | None = None
    finish: Callable[[Mapping[str, Unit], ResultFiles], Result]
    report: str = directory.RUN
    seal: str
    facts: Mapping[str, Any] = field(default_factory=dict)

"""Find a benchmark, and one of its sets, by the name that one types: ``ruler:niah_multikey_3``."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from headprobe.errors import UsageError
from headprobe.evaluation.benchmarks import infinitebench, longbench, loogle, others
from headprobe.evaluation.benchmarks.metrics import check_gradable
from headprobe.evaluation.benchmarks.protocol import SCORE, Protocol
from headprobe.evaluation.benchmarks.rows import Row
from headprobe.evaluation.benchmarks.ruler.protocols import PROTOCOLS as RULER
from headprobe.evaluation.benchmarks.ruler.tasks import OF_DOCUMENTS, TASKS


@dataclass(frozen=True, eq=False, kw_only=True)
class Benchmark:
    """A benchmark: the protocols of its sets, and the sets whose rows are made here."""

    name: str
    summary: str
    protocols: Mapping[str, Protocol]
    generated: Collection[str] = ()


@dataclass(frozen=True, eq=False, kw_only=True)
class Chosen:
    """A benchmark, and the set of it that was named, if any."""

    benchmark: Benchmark
    set_name: str | None

    @property
    def name(self) -> str:
        """The benchmark as one types it."""
        return ":".join(filter(None, (self.benchmark.name, self.set_name)))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that its questions may be graded by."""
        protocols = self.benchmark.protocols
        named = [protocols[self.set_name]] if self.set_name else protocols.values()
        return tuple(dict.fromkeys([*(metric for one in named for metric in one.metrics), SCORE]))

    def protocol_of(self, row: Row) -> Protocol:
        """Return the protocol of a row: of the set that was named, else of the row's own.

        Rows of kvpress' data sets and one's own are of any benchmark.

        Raises:
            ValueError: the row is of another benchmark or set, names none of the benchmark's, or
                has nothing that its metrics could grade.
        """
        protocol = self._protocol_of(row)
        check_gradable(protocol.metrics, row.answers, protocol.classes(row))
        return protocol

    def _protocol_of(self, row: Row) -> Protocol:
        if row.schema not in ("", "kvpress", self.benchmark.name) and not _is_unknown(row):
            raise ValueError(f"the row is of {row.schema}, not of {self.benchmark.name}")
        protocols = self.benchmark.protocols
        task = _task(row)
        wanted = self.set_name
        if wanted is None:
            if task not in protocols:
                raise ValueError(
                    f"the row names no set of {self.benchmark.name} ({row.task or 'none'}): name "
                    f"it as in {self.benchmark.name}:{next(iter(protocols))}"
                )
            return protocols[task]
        # RULER's prompts tell the family alone.
        own = [name for name in protocols if name == task or name.startswith(f"{task}_")]
        if task and own and wanted not in own:
            raise ValueError(f"the row is of set {task}, not {wanted}")
        return protocols[wanted]


BENCHMARKS = {
    one.name: one
    for one in (
        Benchmark(
            name="longbench",
            summary="questions, summaries, few-shot, counting and code over long texts, in two "
            "languages",
            protocols=longbench.PROTOCOLS,
        ),
        Benchmark(
            name="loogle",
            summary="questions about documents of 20,000 tokens and more",
            protocols=loogle.PROTOCOLS,
        ),
        Benchmark(
            name="ruler",
            summary="thirteen synthetic tasks at any length, made here",
            protocols=RULER,
            generated=tuple(task for task in TASKS if task not in OF_DOCUMENTS),
        ),
        Benchmark(
            name="infinitebench",
            summary="keys, dialogues, books, code and mathematics of 100,000 tokens",
            protocols=infinitebench.PROTOCOLS,
        ),
        Benchmark(
            name="babilong",
            summary="facts about persons and things in a long text",
            protocols=others.BABILONG,
        ),
        Benchmark(
            name="longbench-v2",
            summary="choices of four about long texts",
            protocols=others.LONGBENCH_V2,
        ),
        Benchmark(name="squad", summary="questions about paragraphs", protocols=others.SQUAD),
    )
}


def _task(row: Row) -> str:
    # LongBench-E's rows, as they are published and as kvpress has them.
    return row.task.removesuffix("_e").removesuffix("-e")


def _is_unknown(row: Row) -> bool:
    """Tell whether a row is one's own after all: its ``dataset`` is none of LongBench's."""
    return row.schema == "longbench" and _task(row) not in longbench.PROTOCOLS


def get_benchmark(typed: str) -> Chosen:
    """Find a benchmark as it is typed: ``longbench``, or with a set, ``longbench:qasper``.

    Raises:
        UsageError: there is no such benchmark, or it has no such set.
    """
    name, _, set_name = typed.partition(":")
    if name not in BENCHMARKS:
        message = f"expected {', '.join(BENCHMARKS)}, with a set after a colon"
        raise UsageError(message, option="benchmark", value=typed)
    benchmark = BENCHMARKS[name]
    if set_name and set_name not in benchmark.protocols:
        message = f"sets of {name}: {', '.join(benchmark.protocols)}"
        raise UsageError(message, option="benchmark", value=typed)
    return Chosen(benchmark=benchmark, set_name=set_name or None)

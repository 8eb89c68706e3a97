"""A run from its options to its directory: cases, observations, scores, files."""

from __future__ import annotations

import hashlib
import itertools
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headprobe import __version__, rundir, scores
from headprobe.aliases import NANO
from headprobe.bundled import bundled
from headprobe.cases import Case, hide_needles, visiting_order
from headprobe.errors import HeadprobeError, Interrupted, UsageError
from headprobe.grid import parse_depths, parse_lengths
from headprobe.haystacks import NOISE, sentences
from headprobe.journal import FILE_NAME as JOURNAL
from headprobe.journal import Journal, Observation, discard_journal, open_journal
from headprobe.memory import Pieces, cache_bytes, parse_bytes, pieces_for
from headprobe.needles import read_needles
from headprobe.probes import ACCEPTED_ABOVE
from headprobe.processes import Processes
from headprobe.reliability import split_half
from headprobe.scores import HeadScores
from headprobe.tasks import Task, get_task
from headprobe.tree import PrefixTree
from headprobe.walk import Decode, walk

if TYPE_CHECKING:
    from headprobe.model import LoadedModel

ANSWER_ROOM = 64
_LIBRARIES = ("torch", "transformers", "tokenizers", "numpy")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run takes: tokens, and memory in bytes.

    ``distinct_tokens`` are the prompts' tokens that are run, those that prompts share once;
    ``saving`` is how many times fewer. ``cache`` is the KV cache of the longest prompt,
    ``allowance`` what is set aside for everything else beside the weights; ``peak`` is the sum.
    """

    prompt_tokens: int
    distinct_tokens: int
    saving: float
    chunk: int
    weights: int
    cache: int
    allowance: int
    peak: int


@dataclass(frozen=True, eq=False, kw_only=True)
class PlannedRun:
    """Everything that is known before the model runs.

    ``plan`` holds every option that changes the numbers; a run is resumed only under an equal
    plan. ``possible`` counts the cases of the whole grid, of which ``cases`` were drawn. ``tree``
    is over the cases' prompts; ``cost`` says what the run takes. With ``until_stable`` it stops
    once the ranking is more reliable than that.
    """

    task_name: str
    task: Task
    cases: Sequence[Case]
    possible: int
    plan: Mapping[str, Any]
    seed: int
    out: Path
    decode: Decode
    tree: PrefixTree
    pieces: Pieces
    cost: Cost
    until_stable: float | None

    def rounds(self) -> Iterator[set[int]]:
        """The cases, in the portions after which a run may stop: about one a needle."""
        if self.until_stable is None:
            yield set(range(len(self.cases)))
            return
        order = iter(visiting_order(self.cases, self.seed))
        size = len({case.needle_id for case in self.cases})
        while portion := {case.case_id for case in itertools.islice(order, size)}:
            yield portion

    @property
    def summary(self) -> str:
        """One line for the terminal."""
        drawn = "" if len(self.cases) == self.possible else f" of {self.possible}, balanced"
        return (
            f"{self.task_name}: {len(self.cases)} cases{drawn}, {self.cost.prompt_tokens:,} prompt "
            f"tokens, of which {self.cost.distinct_tokens:,} are run"
        )


def prepare(
    loaded: LoadedModel,
    *,
    task: str,
    lengths: str | None = None,
    depths: str = "0:100:10",
    needles: Path | None = None,
    haystack: str | None = None,
    limit: int | None = 200,
    seed: int = 0,
    out: Path | None = None,
    decode: Decode = "greedy",
    chunk: int | None = None,
    memory_allowance: str = "1GiB",
    until_stable: float | None = None,
) -> PlannedRun:
    """Build a task's cases and its plan; the model's weights are not needed for it.

    Raises:
        UsageError: an option that makes no sense, or a file that is not there or not usable.
    """
    chosen = get_task(task)
    corpus = NANO if loaded.name == NANO else "english"
    needle_file = needles or bundled("needles", corpus, chosen.probe.needles)
    source = haystack or (NOISE if corpus == NANO else str(bundled("haystack", corpus)))
    told = read_needles(needle_file)
    wanted_depths = parse_depths(depths)
    wanted_lengths = parse_lengths(lengths, longest=_longest(loaded.window))
    cases = hide_needles(
        told,
        sentences=sentences(source, seed=seed),
        tokenizer=loaded.tokenizer,
        lengths=wanted_lengths,
        depths=wanted_depths,
        limit=limit,
        seed=seed,
    )
    plan = {
        "task": task,
        "model": loaded.layout.id,
        "weights": loaded.fingerprint,
        "dtype": loaded.dtype,
        "device": loaded.device.type,
        "lengths": wanted_lengths,
        "depths": wanted_depths,
        "needles": str(needles) if needles else f"bundled {corpus}",
        "haystack": haystack or f"bundled {corpus}",
        "limit": limit,
        "seed": seed,
        "decode": decode,
        "until_stable": until_stable,
        "prompts": _digest(cases),
    }
    if until_stable is not None and not 0 < until_stable < 1:
        raise UsageError(f"--until-stable lies between 0 and 1, got {until_stable:g}")
    tree = PrefixTree.of([case.input_ids for case in cases])
    allowance = parse_bytes(memory_allowance)
    longest = max(case.length + chosen.probe.most_steps(case) for case in cases)
    element = loaded.model.dtype.itemsize
    pieces = pieces_for(
        loaded.model.config, longest=longest, allowance=allowance, element=element, chunk=chunk
    )
    return PlannedRun(
        task_name=task,
        task=chosen,
        cases=cases,
        possible=len(told) * len(wanted_lengths) * len(wanted_depths),
        plan=plan,
        seed=seed,
        out=out or rundir.directory_for(loaded.name, task),
        decode=decode,
        tree=tree,
        pieces=pieces,
        cost=_cost(loaded, tree, pieces, longest=longest, allowance=allowance),
        until_stable=until_stable,
    )


def _cost(
    loaded: LoadedModel, tree: PrefixTree, pieces: Pieces, *, longest: int, allowance: int
) -> Cost:
    weights = loaded.weight_bytes
    cache = cache_bytes(loaded.layout, tokens=longest, element=loaded.model.dtype.itemsize)
    tokens = int(tree.lengths.sum())
    return Cost(
        prompt_tokens=tokens,
        distinct_tokens=tree.distinct,
        saving=tokens / tree.distinct,
        chunk=pieces.chunk,
        weights=weights,
        cache=cache,
        allowance=allowance,
        peak=weights + cache + allowance,
    )


def _longest(window: int | None) -> int | None:
    return None if window is None else max(1, window - ANSWER_ROOM)


def _digest(cases: Sequence[Case]) -> str:
    digest = hashlib.sha256()
    for case in cases:
        ids = [case.needle_id, case.span_start, case.span_end, *case.input_ids, *case.answer_ids]
        digest.update(np.array(ids, dtype="<i8").tobytes())
    return digest.hexdigest()[:16]


def score_heads(
    loaded: LoadedModel,
    run: PlannedRun,
    *,
    fresh: bool = False,
    processes: Processes | None = None,
    advance: Callable[[], None] = lambda: None,
) -> HeadScores | None:
    """Run the cases that are not observed yet, then write the run directory.

    With several processes each runs some whole subtrees of the prompts, with a journal of its own;
    the first gathers and writes what all have observed, the others return None. ``advance`` is
    called once a case of this process, those of an earlier start included.

    Raises:
        UsageError: the directory holds a run with another plan, and ``fresh`` is not set.
        Interrupted: Ctrl-C; what was observed is kept, the same call goes on from there.
        HeadprobeError: no case was accepted (the case table is written all the same).
    """
    processes = processes or Processes()
    if processes.is_first:
        _make_ready(run, fresh=fresh)
    processes.share(None)
    own = run.out / (JOURNAL if processes.is_first else f"journal.{processes.rank}.sqlite")
    run.out.mkdir(parents=True, exist_ok=True)
    with open_journal(own, run.plan) as journal:
        done = set().union(*processes.share(journal.observed()))
        part = set(run.tree.parts(processes.count)[processes.rank])
        for _ in done & part:
            advance()
        report = _Report(loaded, run, processes=processes.count, resumed_from=len(done))
        try:
            for portion in run.rounds():
                for observation in walk(
                    loaded,
                    run.cases,
                    run.task,
                    wanted=portion & part - done,
                    tree=run.tree,
                    decode=run.decode,
                    pieces=run.pieces,
                ):
                    journal.add(observation)
                    advance()
                if _settled(run, processes, journal):
                    break
        except KeyboardInterrupt:
            reached = len(journal.observed())
            raise Interrupted(
                f"stopped after {reached} of {len(run.cases)} cases; the same command goes on"
            ) from None
        finally:
            if processes.is_first:
                report.write(observed=len(journal.observed()))
        for others in processes.collect(list(journal.observations())):
            journal.merge(others)
        observations = list(journal.observations())
    processes.share(None)
    if not processes.is_first:
        discard_journal(own)
        return None
    report.write(observed=len(observations))
    visited = [run.cases[seen.case_id] for seen in observations]
    rundir.write_table(rundir.case_table(visited, observations), run.out / rundir.CASES)
    result = collect(loaded, run, observations)
    result.save(run.out / scores.FILE_NAME)
    rundir.write_table(rundir.head_table(result, seed=run.seed), run.out / rundir.HEADS)
    reliability = {
        measure: result.reliability(measure, seed=run.seed).to_json() for measure in result.measures
    }
    report.write(observed=len(observations), accepted=result.accepted, reliability=reliability)
    return result


def _make_ready(run: PlannedRun, *, fresh: bool) -> None:
    """The run directory with one journal: what several processes left behind is taken into it."""
    run.out.mkdir(parents=True, exist_ok=True)
    if fresh:
        rundir.clear(run.out)
    with open_journal(run.out / JOURNAL, run.plan) as journal:
        for path in rundir.left_journals(run.out):
            with open_journal(path, run.plan) as left:
                journal.merge(left.observations())
            discard_journal(path)


def _settled(run: PlannedRun, processes: Processes, journal: Journal) -> bool:
    """Whether what all processes have observed ranks the heads reliably enough to stop."""
    if run.until_stable is None:
        return False
    every = itertools.chain.from_iterable(processes.share(list(journal.observations())))
    accepted = sorted(
        (seen for seen in every if seen.success > ACCEPTED_ABOVE), key=lambda seen: seen.case_id
    )
    if not accepted:
        return False
    found = split_half(
        np.stack([seen.scores[run.task.measures[0]] for seen in accepted]),
        [run.cases[seen.case_id].needle_id for seen in accepted],
        seed=run.seed,
    )
    return found.settled(run.until_stable)


class _Report:
    """``run.json``: the plan, what was done, and how long it took."""

    def __init__(
        self, loaded: LoadedModel, run: PlannedRun, *, processes: int, resumed_from: int
    ) -> None:
        self._run = run
        self._started = datetime.now(UTC)
        self._clock = time.perf_counter()
        self._given = {
            "plan": dict(run.plan),
            "cases": len(run.cases),
            "resumed_from": resumed_from,
            "decode": run.decode,
            "processes": processes,
            "layers_without_attention": sorted(
                set(range(loaded.layout.layers)) - set(loaded.attention_layers)
            ),
            "cost": asdict(run.cost),
            "versions": versions(),
        }

    def write(self, *, observed: int, **found: Any) -> None:
        """Write it, with the number of cases ``observed`` and, at the end, what was ``found``."""
        if observed == len(self._run.cases):
            status = "complete"
        else:
            status = "stable" if found else "stopped"
        fields = self._given | {
            "status": status,
            "observed": observed,
            "started": self._started.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - self._clock, 3),
        }
        rundir.write_json(fields | found, self._run.out / rundir.RUN)


def collect(
    loaded: LoadedModel, run: PlannedRun, observations: Sequence[Observation]
) -> HeadScores:
    """The scores of the accepted cases.

    Raises:
        HeadprobeError: there is none.
    """
    accepted = [seen for seen in observations if seen.success > ACCEPTED_ABOVE]
    if not accepted:
        best = max(seen.success for seen in observations)
        raise HeadprobeError(
            f"none of {len(observations)} cases was accepted (best success {best:.0f} of 100): "
            f"the model does not pass {run.task_name}, so its heads cannot be scored; see the "
            f"responses in {run.out / rundir.CASES}, try shorter --lengths or another --task"
        )
    needle_of = {case.case_id: case.needle_id for case in run.cases}
    return HeadScores(
        layout=loaded.layout,
        task=run.task_name,
        per_case={
            measure: np.stack([seen.scores[measure] for seen in accepted])
            for measure in run.task.measures
        },
        needles=tuple(needle_of[seen.case_id] for seen in accepted),
        cases=len(observations),
        plan=run.plan,
        versions=versions(),
    )


def versions() -> dict[str, str]:
    """The versions that a number may depend on."""
    found = {"headprobe": __version__, "python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

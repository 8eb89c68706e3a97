"""A planned run to its directory: observations, scores, files."""

from __future__ import annotations

import itertools
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from headprobe import __version__
from headprobe.errors import HeadprobeError, Interrupted
from headprobe.files import make_directory
from headprobe.runs.case_runner import walk
from headprobe.runs.directory import CASES, HEADS, RUN, case_table, clear, left_journals, write_json
from headprobe.runs.distributed import Processes
from headprobe.runs.plan import PlannedRun
from headprobe.runs.progress import FILE_NAME as JOURNAL
from headprobe.runs.progress import Journal, Observation, discard_journal, open_journal
from headprobe.scores import FILE_NAME as SCORES
from headprobe.scores import HeadScores
from headprobe.scores.tables import head_table, write_table
from headprobe.stats.reliability import split_half

if TYPE_CHECKING:
    from headprobe.models.loading import LoadedModel

_LIBRARIES = ("torch", "transformers", "tokenizers", "numpy")


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
        UsageError: the directory holds a run with another plan, and ``fresh`` is not set; or it is
            a file.
        Interrupted: Ctrl-C; what was observed is kept, the same call goes on from there.
        HeadprobeError: no case was accepted (the case table is written all the same), or the
            directory cannot be written.
    """
    processes = processes or Processes()
    if processes.is_first:
        _make_ready(run, fresh=fresh)
    processes.share(None)
    own = run.out / (JOURNAL if processes.is_first else f"journal.{processes.rank}.sqlite")
    make_directory(run.out)
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
    accepted = sum(seen.accepted for seen in observations)
    report.write(observed=len(observations), accepted=accepted)
    visited = [run.cases[seen.case_id] for seen in observations]
    write_table(case_table(visited, observations), run.out / CASES)
    result = collect(loaded, run, observations)
    result.save(run.out / SCORES)
    write_table(head_table(result, seed=run.seed), run.out / HEADS)
    reliability = {
        measure: result.reliability(measure, seed=run.seed).to_json() for measure in result.measures
    }
    report.write(observed=len(observations), accepted=accepted, reliability=reliability)
    return result


def _make_ready(run: PlannedRun, *, fresh: bool) -> None:
    """The run directory with one journal: what several processes left behind is taken into it."""
    make_directory(run.out)
    if fresh:
        clear(run.out)
    with open_journal(run.out / JOURNAL, run.plan) as journal:
        for path in left_journals(run.out):
            with open_journal(path, run.plan) as left:
                journal.merge(left.observations())
            discard_journal(path)


def _settled(run: PlannedRun, processes: Processes, journal: Journal) -> bool:
    """Whether what all processes have observed ranks the heads reliably enough to stop."""
    if run.until_stable is None:
        return False
    every = itertools.chain.from_iterable(processes.share(list(journal.observations())))
    accepted = sorted((seen for seen in every if seen.accepted), key=lambda seen: seen.case_id)
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
            "layers_without_attention": loaded.layers_without_attention,
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
        write_json(fields | found, self._run.out / RUN)


def collect(
    loaded: LoadedModel, run: PlannedRun, observations: Sequence[Observation]
) -> HeadScores:
    """The scores of the accepted cases.

    Raises:
        HeadprobeError: there is none.
    """
    accepted = [seen for seen in observations if seen.accepted]
    if not accepted:
        best = max(seen.success for seen in observations)
        raise HeadprobeError(
            f"none of {len(observations)} cases was accepted (best success {best:.0f} of 100): "
            f"the model does not pass {run.task_name}, so its heads cannot be scored; see the "
            f"responses in {run.out / CASES}, try shorter --lengths or another --task"
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

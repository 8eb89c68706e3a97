"""A run from its options to its directory: cases, observations, scores, files."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from headprobe import __version__, rundir, scores
from headprobe.aliases import NANO
from headprobe.bundled import bundled
from headprobe.cases import Case, hide_needles
from headprobe.errors import HeadprobeError, Interrupted
from headprobe.grid import parse_depths, parse_lengths
from headprobe.haystacks import NOISE, sentences
from headprobe.journal import FILE_NAME as JOURNAL
from headprobe.journal import Observation, open_journal
from headprobe.needles import read_needles
from headprobe.probes import ACCEPTED_ABOVE
from headprobe.scores import HeadScores
from headprobe.tasks import Task, get_task
from headprobe.walk import walk

if TYPE_CHECKING:
    from headprobe.model import LoadedModel

ANSWER_ROOM = 64
_LIBRARIES = ("torch", "transformers", "tokenizers", "numpy")


@dataclass(frozen=True, eq=False, kw_only=True)
class PlannedRun:
    """Everything that is known before the model runs.

    ``plan`` holds every option that changes the numbers; a run is resumed only under an equal
    plan. ``possible`` counts the cases of the whole grid, of which ``cases`` were drawn.
    """

    task_name: str
    task: Task
    cases: Sequence[Case]
    possible: int
    plan: Mapping[str, Any]
    seed: int
    out: Path

    @property
    def summary(self) -> str:
        """One line for the terminal."""
        tokens = sum(case.length for case in self.cases)
        drawn = "" if len(self.cases) == self.possible else f" of {self.possible}, balanced"
        return f"{self.task_name}: {len(self.cases)} cases{drawn}, {tokens:,} prompt tokens"


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
) -> PlannedRun:
    """Build a task's cases and its plan.

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
        "prompts": _digest(cases),
    }
    return PlannedRun(
        task_name=task,
        task=chosen,
        cases=cases,
        possible=len(told) * len(wanted_lengths) * len(wanted_depths),
        plan=plan,
        seed=seed,
        out=out or rundir.directory_for(loaded.name, task),
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
    advance: Callable[[], None] = lambda: None,
) -> HeadScores:
    """Run the cases that are not observed yet, then write the run directory.

    ``advance`` is called once a case, those of an earlier start included.

    Raises:
        UsageError: the directory holds a run with another plan, and ``fresh`` is not set.
        Interrupted: Ctrl-C; what was observed is kept, the same call goes on from there.
        HeadprobeError: no case was accepted (the case table is written all the same).
    """
    run.out.mkdir(parents=True, exist_ok=True)
    if fresh:
        rundir.clear(run.out)
    started = datetime.now(UTC)
    clock = time.perf_counter()
    with open_journal(run.out / JOURNAL, run.plan) as journal:
        done = journal.observed()
        for _ in done:
            advance()
        report = {"plan": dict(run.plan), "cases": len(run.cases), "resumed_from": len(done)}
        try:
            for observation in walk(
                loaded, [c for c in run.cases if c.case_id not in done], run.task
            ):
                journal.add(observation)
                advance()
        except KeyboardInterrupt:
            reached = len(journal.observed())
            raise Interrupted(
                f"stopped after {reached} of {len(run.cases)} cases; the same command goes on"
            ) from None
        finally:
            observed = len(journal.observed())
            report |= {
                "status": "complete" if observed == len(run.cases) else "stopped",
                "observed": observed,
                "started": started.isoformat(timespec="seconds"),
                "seconds": round(time.perf_counter() - clock, 3),
                "prompt_tokens": sum(case.length for case in run.cases),
                "versions": versions(),
            }
            rundir.write_json(report, run.out / rundir.RUN)
        observations = list(journal.observations())
    rundir.write_table(rundir.case_table(run.cases, observations), run.out / rundir.CASES)
    result = collect(loaded, run, observations)
    result.save(run.out / scores.FILE_NAME)
    rundir.write_table(rundir.head_table(result, seed=run.seed), run.out / rundir.HEADS)
    report |= {
        "accepted": result.accepted,
        "reliability": {
            measure: result.reliability(measure, seed=run.seed).to_json()
            for measure in result.measures
        },
    }
    rundir.write_json(report, run.out / rundir.RUN)
    return result


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

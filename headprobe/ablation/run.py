"""A model's answers while heads are silenced: what will be run, and the run to its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from headprobe.ablation.curves import Ablation
from headprobe.ablation.rankings import Trial, find_rankings, parse_tops, plan_trials
from headprobe.ablation.silencing import MeanOutputs, mean_outputs, silenced
from headprobe.errors import HeadprobeError, Interrupted, UsageError, out_of_memory
from headprobe.files import json_digest, make_directory
from headprobe.models.layout import Head
from headprobe.plots import draw_ablation, save
from headprobe.prompts.case import Case
from headprobe.runs.case_runner import walk
from headprobe.runs.directory import directory_for, remove, write_json
from headprobe.runs.draw import draw_cases
from headprobe.runs.held_out import check_held_out, held_out_seed, seeds_of
from headprobe.runs.memory import Pieces, parse_bytes, pieces_for
from headprobe.runs.prefix_tree import PrefixTree
from headprobe.runs.progress import Journal, Observation, open_journal
from headprobe.runs.score import versions
from headprobe.scores import HeadScores
from headprobe.scores.tables import write_table
from headprobe.tasks import DEFAULT_TASK, Task, asks, get_asking_task
from headprobe.tasks.grading import ACCEPTED, METRICS

if TYPE_CHECKING:
    from headprobe.models.loading import LoadedModel

JOURNAL, TABLE, REPORT, PICTURE = "ablation.sqlite", "ablation.csv", "ablation.json", "ablation.png"
SILENCES = ("zero", "mean")


@dataclass(frozen=True, eq=False, kw_only=True)
class PlannedAblation:
    """Everything that is known before the model runs.

    ``plan`` holds every option that changes the answers; an ablation is resumed only under an equal
    one. ``metric`` grades the answers, ``accepted`` being the probe's own word. ``calibration`` are
    the prompts over which outputs are averaged, none where heads are silenced by zero. ``tree`` is
    over the cases' prompts.
    """

    task_name: str
    task: Task
    cases: Sequence[Case]
    calibration: Sequence[Case]
    trials: tuple[Trial, ...]
    plan: Mapping[str, Any]
    metric: str
    seed: int
    out: Path
    tree: PrefixTree
    pieces: Pieces

    @property
    def groups(self) -> list[tuple[Head, ...]]:
        """The heads that are silenced together, each group once; the first has none."""
        return list(dict.fromkeys([(), *map(_group, self.trials)]))

    @property
    def summary(self) -> str:
        """One line for the terminal."""
        return (
            f"{self.task_name}: {len(self.cases)} cases, {len(self.groups) - 1} groups of heads "
            f"silenced by {self.plan['silence']}, {self.total:,} answers"
        )

    @property
    def total(self) -> int:
        """How many answers it takes."""
        return len(self.groups) * len(self.cases)


def plan_ablation(
    loaded: LoadedModel,
    runs: Sequence[tuple[str, HeadScores]],
    *,
    measures: Sequence[str] = (),
    tops: str = "1,2,4,8",
    draws: int = 5,
    silence: str = "zero",
    calibration: int = 16,
    metric: str = "accepted",
    task: str | None = None,
    lengths: str | None = None,
    depths: str | None = None,
    needles: Path | None = None,
    haystack: str | None = None,
    limit: int | None = 50,
    seed: int | None = None,
    out: Path | None = None,
    chunk: int | None = None,
    memory_allowance: str = "1GiB",
) -> PlannedAblation:
    """Choose the heads by the scores of named runs, and draw the cases.

    The cases are others than those that heads were scored on: of the held-out needles where none
    are named, and by default of the next seed. Outputs are averaged over cases of the others.

    Raises:
        UsageError: an option that makes no sense, a run that does not fit the model, a measure
            that no run holds, or needles that heads were scored on.
    """
    if silence not in SILENCES:
        raise UsageError(f"--silence takes {' or '.join(SILENCES)}, got {silence!r}")
    if metric not in (ACCEPTED, *METRICS):
        raise UsageError(f"--metric takes {', '.join((ACCEPTED, *METRICS))}, got {metric!r}")
    counts = parse_tops(tops)
    seed = held_out_seed(seed, seeds_of(run for _, run in runs))
    rankings = find_rankings(runs, measures, loaded.layout)
    trials = plan_trials(
        rankings,
        layers=loaded.attention_layers,
        tops=counts,
        draws=draws,
        seed=seed,
    )
    name = task or next((run.task for _, run in runs if asks(run.task)), DEFAULT_TASK)
    chosen = replace(get_asking_task(name), measures=())
    draw = partial(
        draw_cases,
        loaded,
        chosen.probe,
        lengths=lengths,
        depths=depths,
        haystack=haystack,
    )
    drawn = draw(needles=needles, limit=limit, seed=seed, held_out=True)
    scored_in = [path for path in map(Path, dict(runs)) if path.exists()]
    check_held_out(drawn, scored_in, loaded.tokenizer)
    averaged = draw(limit=calibration, seed=seed + 1) if silence == "mean" else None
    longest = max(case.length + chosen.probe.most_steps(case) for case in drawn.cases)
    return PlannedAblation(
        task_name=name,
        task=chosen,
        cases=drawn.cases,
        calibration=averaged.cases if averaged else [],
        trials=trials,
        plan={
            "task": name,
            "model": loaded.layout.id,
            "weights": loaded.fingerprint,
            "dtype": loaded.dtype,
            "device": loaded.device.type,
            "measures": list(rankings),
            "runs": [run for run, _ in runs],
            "top": list(counts),
            "draws": draws,
            "heads": json_digest([trial.heads for trial in trials]),
            "silence": silence,
            "calibration": averaged.options["prompts"] if averaged else None,
            **drawn.options,
        },
        metric=metric,
        seed=seed,
        out=out or directory_for(loaded.name, f"ablate-{name}"),
        tree=PrefixTree.of([case.input_ids for case in drawn.cases]),
        pieces=pieces_for(
            loaded.model.config,
            longest=longest,
            allowance=parse_bytes(memory_allowance),
            element=loaded.model.dtype.itemsize,
            chunk=chunk,
        ),
    )


def ablate(
    loaded: LoadedModel,
    run: PlannedAblation,
    *,
    fresh: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> Ablation:
    """Let the model answer with each group of heads silenced, and write what that costs.

    Answers are kept as they come, so a run that is stopped goes on. ``advance`` is called once an
    answer, those of an earlier start included.

    Raises:
        UsageError: the directory holds an ablation with another plan, and ``fresh`` is not set.
        Interrupted: Ctrl-C; the same call goes on from there.
        HeadprobeError: the model answers nothing as it is.
    """
    make_directory(run.out)
    if fresh:
        files = [run.out / name for name in (TABLE, REPORT, PICTURE)]
        remove([run.out / JOURNAL], files)
    with open_journal(run.out / JOURNAL, run.plan) as journal:
        try:
            _answer(loaded, run, journal, advance=advance)
        except KeyboardInterrupt:
            raise Interrupted(
                f"stopped after {len(journal.observed())} of {run.total} answers; "
                "the same command goes on"
            ) from None
        graded = [_grade(run, seen) for seen in journal.observations()]
    grades = dict(zip(run.groups, np.array(graded).reshape(-1, len(run.cases)), strict=True))
    result = Ablation(
        layout=loaded.layout,
        task=run.task_name,
        metric=run.metric,
        needles=tuple(case.needle_id for case in run.cases),
        full=grades[()],
        trials=run.trials,
        grades=np.stack([grades[_group(trial)] for trial in run.trials]),
        plan=run.plan,
        seed=run.seed,
    )
    write_table(result.table(), run.out / TABLE)
    write_json(result.to_json() | {"versions": versions()}, run.out / REPORT)
    save(draw_ablation(result), run.out / PICTURE)
    return result


def _answer(
    loaded: LoadedModel,
    run: PlannedAblation,
    journal: Journal,
    *,
    advance: Callable[[], None],
) -> None:
    """Bring the journal to one answer of every group to every case.

    They are numbered one group after the other.
    """
    done = journal.observed()
    for _ in done:
        advance()
    prompts = [case.input_ids for case in run.calibration]
    means: MeanOutputs | None = None
    if prompts and len(done) < run.total:
        try:
            means = mean_outputs(loaded.model, prompts, chunk=run.pieces.chunk)
        except torch.OutOfMemoryError as error:
            raise out_of_memory(error, tokens=max(map(len, prompts))) from error
    for place, heads in enumerate(run.groups):
        first = place * len(run.cases)
        left = {case.case_id for case in run.cases} - {number - first for number in done}
        with silenced(loaded.model, heads, means=means):
            for seen in walk(
                loaded, run.cases, run.task, wanted=left, tree=run.tree, pieces=run.pieces
            ):
                journal.add(replace(seen, case_id=first + seen.case_id))
                advance()
        if not heads and not any(_grade(run, seen) for seen in journal.observations()):
            raise HeadprobeError(
                f"the model answers none of {len(run.cases)} cases, so there is nothing to lose: "
                "try shorter --lengths, another --task or --metric"
            )


def _grade(run: PlannedAblation, seen: Observation) -> float:
    if run.metric == ACCEPTED:
        return 100.0 * seen.accepted
    case = run.cases[seen.case_id % len(run.cases)]
    return METRICS[run.metric](seen.response, [case.answer])


def _group(trial: Trial) -> tuple[Head, ...]:
    return tuple(sorted(trial.heads))

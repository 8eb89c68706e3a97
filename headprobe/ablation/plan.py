"""What an ablation is, from its options: the heads that are silenced, and the cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from headprobe.ablation.rankings import Trial, find_rankings, parse_tops, plan_trials
from headprobe.errors import UsageError
from headprobe.files import json_digest
from headprobe.models.layout import Head
from headprobe.prompts.case import Case, case_key
from headprobe.runs.directory import directory_for
from headprobe.runs.draw import draw_cases
from headprobe.runs.held_out import check_held_out, held_out_seed, seeds_of
from headprobe.runs.memory import Pieces, parse_bytes, pieces_for
from headprobe.runs.plan import model_identity, run_labels
from headprobe.runs.prefix_tree import PrefixTree
from headprobe.runs.progress import Plan
from headprobe.scores import HeadScores
from headprobe.tasks import DEFAULT_TASK, Task, asks, get_asking_task
from headprobe.tasks.grading import ACCEPTED, METRICS

if TYPE_CHECKING:
    from headprobe.models.loading import LoadedModel

SILENCES = ("zero", "mean")


@dataclass(frozen=True, eq=False, kw_only=True)
class PlannedAblation:
    """Everything that is known before the model runs.

    An ablation goes on from one whose ``plan`` has the same identity. ``metric`` grades the
    answers, ``accepted`` being the probe's own word. ``calibration`` are the prompts over which
    outputs are averaged, none where heads are silenced by zero. ``tree`` is over the cases'
    prompts.
    """

    task_name: str
    task: Task
    cases: Sequence[Case]
    calibration: Sequence[Case]
    trials: tuple[Trial, ...]
    plan: Plan
    metric: str
    seed: int
    out: Path
    tree: PrefixTree
    pieces: Pieces

    @cached_property
    def groups(self) -> list[tuple[Head, ...]]:
        """The heads that are silenced together, each group once; the first has none."""
        return list(dict.fromkeys([(), *(trial.group for trial in self.trials)]))

    @cached_property
    def keys(self) -> dict[tuple[Head, ...], list[str]]:
        """For each group a digest of its heads and of each case."""
        cases = [case_key(case) for case in self.cases]
        return {heads: [json_digest([heads, case]) for case in cases] for heads in self.groups}

    @property
    def summary(self) -> str:
        """One line for the terminal."""
        return (
            f"{self.task_name}: {len(self.cases)} cases, {len(self.groups) - 1} groups of heads "
            f"silenced by {self.plan.identity['silence']}, {self.total:,} answers"
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
    pieces = pieces_for(
        loaded.model.config,
        longest=longest,
        allowance=parse_bytes(memory_allowance),
        element=loaded.model.dtype.itemsize,
        chunk=chunk,
    )
    return PlannedAblation(
        task_name=name,
        task=chosen,
        cases=drawn.cases,
        calibration=averaged.cases if averaged else [],
        trials=trials,
        plan=Plan(
            identity={
                "kind": "ablate",
                "task": name,
                **model_identity(loaded),
                "silence": silence,
                "calibration_digest": json_digest([case_key(c) for c in averaged.cases])
                if averaged
                else None,
                **drawn.plan.identity,
            },
            labels={
                "measures": list(rankings),
                "runs": [run for run, _ in runs],
                "top": list(counts),
                "draws": draws,
                "calibration": calibration if averaged else None,
                **drawn.plan.labels,
                **run_labels(loaded, pieces),
            },
        ),
        metric=metric,
        seed=seed,
        out=out or directory_for(loaded.name, f"ablate-{name}"),
        tree=PrefixTree.of([case.input_ids for case in drawn.cases]),
        pieces=pieces,
    )

"""A model's answers while heads are silenced: what will be run, and the run to its files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from headprobe.ablation.ablated import MeanOutputs, ablated, mean_outputs
from headprobe.ablation.curves import Ablation
from headprobe.ablation.rankings import Trial, find_rankings, parse_top_k, plan_trials
from headprobe.errors import HeadprobeError, Interrupted, UsageError, out_of_memory
from headprobe.files import json_digest, make_directory
from headprobe.models.layout import Head
from headprobe.prompts.case import Case
from headprobe.prompts.style import PromptOptions
from headprobe.runs.case_runner import observe_cases
from headprobe.runs.directory import directory_for, remove, write_json
from headprobe.runs.draw import bundled_corpus, draw_cases
from headprobe.runs.held_out import check_held_out, held_out_seed, scored_corpus, seeds_of
from headprobe.runs.memory import ChunkSizes, chunk_sizes_for, parse_bytes
from headprobe.runs.prefix_tree import PrefixTree
from headprobe.runs.progress import Journal, Observation, open_journal, stored_plan
from headprobe.runs.prompt_trial import draw_asked
from headprobe.runs.score import versions
from headprobe.scores import HeadScores
from headprobe.scores.tables import write_table
from headprobe.tasks import DEFAULT_TASK, Task, asks, get_asking_task
from headprobe.tasks.grading import METRICS, PASSED

if TYPE_CHECKING:
    from headprobe.models.loading import LoadedModel

JOURNAL, TABLE, REPORT, PICTURE = "ablation.sqlite", "ablation.csv", "ablation.json", "ablation.png"
ABLATIONS = ("zero", "mean")


@dataclass(frozen=True, eq=False, kw_only=True)
class PlannedAblation:
    """Everything that is known before the model runs.

    ``plan`` holds every option that changes the answers; an ablation is resumed only under an equal
    one. ``metric`` grades the answers, ``passed`` being the probe's own word. ``calibration`` are
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
    chunk_sizes: ChunkSizes

    @property
    def groups(self) -> list[tuple[Head, ...]]:
        """The heads that are silenced together, each group once; the first has none."""
        return list(dict.fromkeys([(), *map(_group, self.trials)]))

    @property
    def summary(self) -> str:
        """One line for the terminal."""
        return (
            f"{self.task_name}: {len(self.cases)} cases, {len(self.groups) - 1} groups of heads "
            f"silenced by {self.plan['ablation']}, {self.total:,} answers"
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
    top_k: str = "1,2,4,8",
    random_draws: int = 5,
    ablation: str = "zero",
    calibration: int = 16,
    metric: str = "passed",
    task: str | None = None,
    lengths: str | None = None,
    depths: str | None = None,
    needles: Path | None = None,
    haystack: str | None = None,
    limit: int | None = 50,
    seed: int | None = None,
    out: Path | None = None,
    prefill_chunk: int | None = None,
    activation_memory: str = "1GiB",
    prompt: PromptOptions | None = None,
    overwrite: bool = False,
) -> PlannedAblation:
    """Choose the heads by the scores of named runs, and draw the cases.

    The cases are others than those that heads were scored on: of the held-out needles where none
    are named, and by default of the next seed. Outputs are averaged over cases of the others. As
    long as ``prompt`` leaves the style open, questions are put as the runs' were, else a trial
    decides.

    Raises:
        UsageError: an option that makes no sense, a run that does not fit the model, a measure
            that no run holds, or needles that heads were scored on.
    """
    if ablation not in ABLATIONS:
        message = f"expected {' or '.join(ABLATIONS)}"
        raise UsageError(message, option="ablation", value=ablation)
    if metric not in (PASSED, *METRICS):
        message = f"expected {', '.join((PASSED, *METRICS))}"
        raise UsageError(message, option="metric", value=metric)
    counts = parse_top_k(top_k)
    seed = held_out_seed(seed, seeds_of(run for _, run in runs))
    rankings = find_rankings(runs, measures, loaded.layout)
    trials = plan_trials(
        rankings,
        layers=loaded.attention_layers,
        top_k=counts,
        random_draws=random_draws,
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
    out = out or directory_for(loaded.label, f"ablate-{name}")
    prompt = prompt or PromptOptions()
    corpus = scored_corpus(run for _, run in runs) if needles is None else needles
    drawn, decision = draw_asked(
        loaded,
        chosen,
        lambda settled: draw(needles=corpus, limit=limit, seed=seed, held_out=True, prompt=settled),
        prompt=prompt,
        plans=[{} if overwrite else stored_plan(out / JOURNAL), *(run.plan for _, run in runs)],
        seed=seed,
    )
    scored_in = [path for path in map(Path, dict(runs)) if path.exists()]
    check_held_out(drawn, scored_in, loaded.tokenizer)
    settled = decision.settle(prompt)
    # Of a file of one's own all needles are asked; outputs are averaged over bundled ones.
    others = corpus if bundled_corpus(corpus) else None
    averaged = (
        draw(needles=others, limit=calibration, seed=seed + 1, prompt=settled)
        if ablation == "mean"
        else None
    )
    longest = max(case.length + chosen.probe.max_new_tokens(case) for case in drawn.cases)
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
            "attention": loaded.attention,
            "device": loaded.device.type,
            "measures": list(rankings),
            "runs": [run for run, _ in runs],
            "top": list(counts),
            "random_draws": random_draws,
            "heads": json_digest([trial.heads for trial in trials]),
            "ablation": ablation,
            "calibration": averaged.options["prompts"] if averaged else None,
            **decision.in_plan(),
            **drawn.options,
        },
        metric=metric,
        seed=seed,
        out=out,
        tree=PrefixTree.of([case.input_ids for case in drawn.cases]),
        chunk_sizes=chunk_sizes_for(
            loaded.model.config,
            longest=longest,
            activation_bytes=parse_bytes(activation_memory),
            element=loaded.model.dtype.itemsize,
            prefill_chunk=prefill_chunk,
        ),
    )


def ablate(
    loaded: LoadedModel,
    run: PlannedAblation,
    *,
    overwrite: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> Ablation:
    """Let the model answer with each group of heads silenced, and write what that costs.

    Answers are kept as they come, so a run that is stopped goes on. ``advance`` is called once an
    answer, those of an earlier start included.

    Raises:
        UsageError: the directory holds an ablation with another plan, and ``overwrite`` is not set.
        Interrupted: Ctrl-C; the same call goes on from there.
        HeadprobeError: the model answers nothing as it is.
    """
    make_directory(run.out)
    if overwrite:
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
            means = mean_outputs(loaded.model, prompts, prefill_chunk=run.chunk_sizes.prefill_chunk)
        except torch.OutOfMemoryError as error:
            raise out_of_memory(error, tokens=max(map(len, prompts))) from error
    for place, heads in enumerate(run.groups):
        first = place * len(run.cases)
        left = {case.case_id for case in run.cases} - {number - first for number in done}
        with ablated(loaded.model, heads, means=means):
            for seen in observe_cases(
                loaded, run.cases, run.task, wanted=left, tree=run.tree, chunk_sizes=run.chunk_sizes
            ):
                journal.add(replace(seen, case_id=first + seen.case_id))
                advance()
        if not heads and not any(_grade(run, seen) for seen in journal.observations()):
            raise HeadprobeError(
                f"the model answers none of {len(run.cases)} cases, so there is nothing to lose: "
                "try shorter --lengths, another --task or --metric"
            )


def _grade(run: PlannedAblation, seen: Observation) -> float:
    if run.metric == PASSED:
        return 100.0 * seen.passed
    case = run.cases[seen.case_id % len(run.cases)]
    return METRICS[run.metric](seen.response, [case.answer])


def _group(trial: Trial) -> tuple[Head, ...]:
    return tuple(sorted(trial.heads))

"""Plan an ablation from its options: the heads that are ablated, and the cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from headprobe.ablation.rankings import HeadChoice, Trial, find_rankings, plan_trials
from headprobe.files import json_digest
from headprobe.models.layout import Head
from headprobe.prompts.case import Case, case_key
from headprobe.prompts.spec import CaseSpec
from headprobe.prompts.style import PromptOptions
from headprobe.runs.directory import directory_for
from headprobe.runs.draw import bundled_corpus, draw_cases
from headprobe.runs.held_out import check_held_out, held_out_seed, scored_corpus, seeds_of
from headprobe.runs.identity import Plan, model_identity
from headprobe.runs.memory import ChunkSizes, MemoryOptions, chunk_sizes_for, sequences_for
from headprobe.runs.plan import run_labels
from headprobe.runs.prefix_tree import PrefixTree
from headprobe.runs.progress import FILE_NAME, stored_plan
from headprobe.runs.prompt_trial import draw_asked
from headprobe.scores import HeadScores
from headprobe.tasks import DEFAULT_TASK, TASKS, Task, find_task
from headprobe.tasks.grading import METRICS, PASSED

if TYPE_CHECKING:
    from headprobe.models.loading import LoadedModel

ABLATIONS = ("zero", "mean")


@dataclass(frozen=True, eq=False, kw_only=True)
class PlannedAblation:
    """An ablation as it is known before the model runs.

    An ablation resumes an earlier one whose ``plan`` has the same identity. ``metric`` grades the
    answers; ``passed`` is the probe's own verdict. ``calibration`` are the prompts over which
    outputs are averaged, none where heads are ablated by zero. ``tree`` is over the cases'
    prompts. ``sequences`` groups of heads at most are ablated in one batch.
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
    chunk_sizes: ChunkSizes
    sequences: int

    @cached_property
    def groups(self) -> list[tuple[Head, ...]]:
        """The heads that are ablated together, each group once; the first has none."""
        return list(dict.fromkeys([(), *(trial.group for trial in self.trials)]))

    @cached_property
    def keys(self) -> dict[tuple[Head, ...], list[str]]:
        """For each group a digest of its heads and of each case."""
        cases = [case_key(case) for case in self.cases]
        return {heads: [json_digest([heads, case]) for case in cases] for heads in self.groups}

    @property
    def summary(self) -> str:
        """The plan in one line, for the terminal."""
        return (
            f"{self.task_name}: {len(self.cases)} cases, {len(self.groups) - 1} groups of heads "
            f"ablated by {self.plan.identity['ablation']}, {self.total:,} answers"
        )

    @property
    def total(self) -> int:
        """The number of answers that the ablation takes."""
        return len(self.groups) * len(self.cases)


def plan_ablation(
    loaded: LoadedModel,
    runs: Sequence[tuple[str, HeadScores]],
    heads: HeadChoice,
    spec: CaseSpec,
    *,
    ablation: str = "zero",
    calibration: int = 16,
    metric: str = PASSED,
    task: Task | None = None,
    memory: MemoryOptions | None = None,
    out: Path | None = None,
    prompt: PromptOptions | None = None,
    overwrite: bool = False,
) -> PlannedAblation:
    """Choose the heads by the scores of named runs, and draw the cases.

    The cases differ from the cases that heads were scored on: they are of the held-out needles
    where none are named, and by default of the next seed. Outputs are averaged over cases of
    needles that are not held out. As long as ``prompt`` leaves the style open, questions are put as
    an earlier ablation in ``out`` or the runs put them, else a trial decides.

    Args:
        loaded: the model.
        runs: scores by the names of their runs.
        heads: how the heads to ablate are chosen.
        spec: which cases are drawn.
        ablation: ``zero`` or ``mean``, what a head's output is replaced by.
        calibration: the number of prompts that outputs are averaged over.
        metric: what grades the answers.
        task: what is asked; left out, the first task of the runs that asks for answers.
        memory: how much is run at a time.
        out: the directory; left out, it is named after model and task.
        prompt: how questions are put.
        overwrite: do not look at how an ablation in ``out`` put its questions.

    Raises:
        UsageError: an option that makes no sense, a run that does not fit the model, a measure
            that no run holds, or needles that heads were scored on.
    """
    if ablation not in ABLATIONS:
        raise ValueError(f"expected an ablation by {' or '.join(ABLATIONS)}, got {ablation!r}")
    if metric not in (PASSED, *METRICS):
        raise ValueError(f"expected a metric of {(PASSED, *METRICS)}, got {metric!r}")
    seed = held_out_seed(spec.seed, seeds_of(run for _, run in runs))
    rankings = find_rankings(runs, heads.measures, loaded.layout)
    trials = plan_trials(
        rankings,
        layers=loaded.attention_layers,
        top_k=heads.top_k,
        random_draws=heads.random_draws,
        seed=seed,
    )
    task = replace(task or _task_of(runs), measures=())
    out = out or directory_for(loaded.label, f"ablate-{task.name}")
    prompt = prompt or PromptOptions()
    corpus = spec.needles or scored_corpus(run for _, run in runs)
    probe, seeded = task.probe, replace(spec, needles=corpus, seed=seed)
    earlier = {} if overwrite else stored_plan(out / FILE_NAME)
    drawn, decision = draw_asked(
        loaded,
        task,
        lambda settled: draw_cases(loaded, probe, seeded, held_out=True, prompt=settled),
        prompt=prompt,
        plans=[earlier, *(run.plan for _, run in runs)],
        seed=seed,
    )
    scored_in = [path for path in map(Path, dict(runs)) if path.exists()]
    check_held_out(drawn, scored_in, loaded.tokenizer)
    averaged = None
    if ablation == "mean":
        # All needles of a user's own file are asked; outputs are averaged over bundled needles.
        needles = corpus if bundled_corpus(corpus) else None
        others = replace(spec, needles=needles, limit=calibration, seed=seed + 1)
        averaged = draw_cases(loaded, probe, others, prompt=decision.settle(prompt))
    longest = max(case.length + probe.max_new_tokens(case) for case in drawn.cases)
    memory, element = memory or MemoryOptions(), loaded.model.dtype.itemsize
    chunk_sizes = chunk_sizes_for(loaded.model.config, memory, longest=longest, element=element)
    return PlannedAblation(
        task_name=task.name,
        task=task,
        cases=drawn.cases,
        calibration=averaged.cases if averaged else [],
        trials=trials,
        plan=Plan(
            identity={
                "kind": "ablate",
                "task": task.name,
                **model_identity(loaded),
                "ablation": ablation,
                "calibration_digest": json_digest([case_key(c) for c in averaged.cases])
                if averaged
                else None,
                **drawn.plan.identity,
            },
            labels={
                "measures": list(rankings),
                "runs": [run for run, _ in runs],
                "top": list(heads.top_k),
                "random_draws": heads.random_draws,
                "calibration": calibration if averaged else None,
                **drawn.plan.labels,
                **decision.in_plan(),
                **run_labels(loaded, chunk_sizes),
            },
        ),
        metric=metric,
        seed=seed,
        out=out,
        tree=PrefixTree.of([case.input_ids for case in drawn.cases]),
        chunk_sizes=chunk_sizes,
        # A forward pass costs its launch on a GPU, and its tokens on a CPU.
        sequences=1
        if loaded.device.type == "cpu"
        else sequences_for(loaded.layout, memory, chunk_sizes, longest=longest, element=element),
    )


def _task_of(runs: Sequence[tuple[str, HeadScores]]) -> Task:
    """Return the first task of the runs that asks for answers, else the default task."""
    tasks = [find_task(run.task) for _, run in runs]
    return next((task for task in tasks if task and task.asks), TASKS[DEFAULT_TASK])

"""Plan an evaluation from its options: the questions, the methods, and where results go."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from headprobe.allocators.mixing import WeightedRun
from headprobe.compression.reconstruction import can_repeat
from headprobe.compression.selections import needs_of
from headprobe.errors import HeadprobeWarning, UsageError
from headprobe.evaluation.baselines import KVZIP, KVZIP_GLOBAL, with_baselines
from headprobe.evaluation.benchmarks.question_set import benchmark_questions
from headprobe.evaluation.benchmarks.registry import Chosen
from headprobe.evaluation.identity import describe_method, methods_digest, question_keys
from headprobe.evaluation.keeping import KeptFraction, kept_fractions
from headprobe.evaluation.methods import (
    CutPoint,
    Method,
    MethodOptions,
    build_methods,
    check_fit,
)
from headprobe.evaluation.question_sets import (
    PromptSources,
    draw_questions,
    read_own_questions,
    source_name,
)
from headprobe.evaluation.questions import Question
from headprobe.evaluation.results import Evaluation, MethodResult
from headprobe.evaluation.scored_runs import choose_seed, find_run, scored_runs, scored_task
from headprobe.evaluation.settings import SETTINGS
from headprobe.models.loading import LoadedModel
from headprobe.prompts.grid import LONGEST_BY_DEFAULT
from headprobe.prompts.spec import CaseSpec
from headprobe.prompts.style import PromptOptions
from headprobe.runs.directory import directory_for
from headprobe.runs.held_out import scored_corpus
from headprobe.runs.hub import shown_name
from headprobe.runs.identity import Plan, model_identity
from headprobe.runs.progress import FILE_NAME, stored_plan
from headprobe.runs.result_files import versions
from headprobe.scores import HeadScores
from headprobe.scores.titles import title
from headprobe.tasks import Task
from headprobe.tasks.grading import METRICS


@dataclass(frozen=True, eq=False, kw_only=True)
class PlannedEvaluation:
    """An evaluation as it is known before the model runs.

    ``subject`` is the model and what it is asked; an evaluation resumes an earlier one whose
    ``plan`` has the same identity; strategies are compared by ``metric``. ``keys`` are a digest of
    each question and of how it is answered. ``name`` is that of the task, the file or the
    benchmark; ``settings``, of ``SETTINGS``, say when the cache is compressed. ``keep`` asks for
    the fraction of the cache that keeps so much of the full cache's accuracy, 0 to 1.
    """

    subject: str
    questions: Sequence[Question]
    keys: Sequence[str]
    methods: Sequence[Method]
    metric: str
    seed: int
    plan: Plan
    out: Path
    name: str
    settings: Sequence[str] = tuple(SETTINGS)
    keep: float | None = None

    @property
    def summary(self) -> str:
        """The plan in one line, for the terminal."""
        one, *others = self.settings
        return (
            f"{self.subject}: {len(self.questions)} questions with the full cache and under "
            f"{len(self.methods)} budgets, baselines among them, "
            f"{'in two settings' if others else f'where {SETTINGS[one]}'}"
        )

    def results(self, found: Evaluation) -> list[MethodResult]:
        """Compare the methods by the planned metric."""
        return found.results(metric=self.metric, seed=self.seed)

    def kept(self, found: Evaluation) -> list[KeptFraction]:
        """Compute the fractions of the cache that keep what ``keep`` says, if it says anything."""
        if self.keep is None:
            return []
        return kept_fractions(found, keep=self.keep, metric=self.metric, seed=self.seed)

    def report(self, found: Evaluation) -> dict[str, Any]:
        """Build the part of ``evaluation.json`` that states the plan and the results."""
        kept = {} if self.keep is None else {"kept": [asdict(one) for one in self.kept(found)]}
        return {
            "plan": self.plan.to_json(),
            "questions": len(self.questions),
            "metric": self.metric,
            "results": [asdict(result) for result in self.results(found)],
            **kept,
            "versions": versions(),
        }


def plan_evaluation(
    loaded: LoadedModel,
    methods: MethodOptions,
    spec: CaseSpec,
    *,
    task: Task | None = None,
    questions: str | Path | None = None,
    benchmark: Chosen | None = None,
    allow_scored_needles: bool = False,
    metric: str | None = None,
    max_new_tokens: int | None = None,
    out: Path | None = None,
    prompt: PromptOptions | None = None,
    overwrite: bool = False,
) -> PlannedEvaluation:
    """Plan which questions are asked, and under which budgets.

    As long as ``prompt`` leaves the style open, questions are put as an earlier evaluation in
    ``out`` put them, or else the scored run. Where neither says anything, a trial decides the style
    of a task's questions, and the user's own questions take ``prefix``.

    Args:
        loaded: the model.
        methods: which budgets are compared.
        spec: which of a task's cases are asked, by default at its longest length; of the user's own
            questions its ``limit`` alone counts.
        task: what is asked; left out, what the scored run asked.
        questions: a file of the user's own questions or a benchmark's rows, or ``hf:`` and a data
            set, in place of a task's.
        benchmark: the benchmark by whose protocol questions are asked and graded.
        allow_scored_needles: allow needles that the heads were scored on.
        metric: what strategies are compared by; left out, f1, or the benchmark's first.
        max_new_tokens: the most tokens of an answer.
        out: the directory; left out, it is named after model and task.
        prompt: how questions are put.
        overwrite: do not look at how an evaluation in ``out`` put its questions.

    Raises:
        UsageError: an option that makes no sense, a file that is not there or not usable, or cases
            that the heads were scored on.
        HeadprobeError: a file is damaged.
    """
    run = find_run(methods)
    known = HeadScores.load(run) if run else None
    weighted = [WeightedRun(name=shown_name(run), scores=known)] if run and known else []
    candidates = build_methods(methods, weighted)
    chosen = task or scored_task(known)
    name = benchmark.name if benchmark else source_name(questions) if questions else chosen.name
    out = out or directory_for(loaded.label, f"evaluate-{name.replace(':', '-')}")
    earlier = {} if overwrite else stored_plan(out / FILE_NAME)
    sources = PromptSources(
        prompt=prompt or PromptOptions(), plans=[earlier, known.plan if known else {}]
    )
    if benchmark is not None:
        asked = benchmark_questions(
            loaded, benchmark, questions, spec, sources.prompt, max_new_tokens=max_new_tokens
        )
    elif questions is not None:
        asked = read_own_questions(
            loaded, questions, spec, sources, max_new_tokens=max_new_tokens, task=task
        )
    else:
        scored = scored_runs(run, methods.files)
        corpus = scored_corpus([known] if known else [])
        seed = choose_seed(spec.seed, known, scored, allow_scored_needles=allow_scored_needles)
        asked = draw_questions(
            loaded,
            chosen,
            replace(spec, needles=spec.needles or corpus, seed=seed),
            sources,
            max_new_tokens=max_new_tokens,
            scored=scored,
            allow_scored_needles=allow_scored_needles,
        )
    own = tuple(asked.questions[0].metrics)
    metric = metric or (own[0] if benchmark else "f1")
    if metric not in (*own, *METRICS):
        message = f"expected {', '.join((*own, *METRICS))}"
        raise UsageError(message, option="metric", value=metric)
    settings = [name for name in SETTINGS if name in methods.settings]
    contexts = _contexts(asked.questions)
    check_fit(candidates, loaded.layout, contexts)
    shorter = "shorter `lengths`" if questions is None else "questions about shorter contexts"
    without = _without(loaded, candidates, max(contexts), shorter=shorter)
    seed = asked.plan.identity.get("seed", spec.seed or 0)
    # At one length, whatever the questions: what else they are asked with does not matter.
    cut_point = CutPoint.whole(loaded.layout, tokens=LONGEST_BY_DEFAULT)
    plan = Plan(
        identity={
            "kind": "evaluate",
            **model_identity(loaded),
            "methods_digest": methods_digest(candidates, cut_point),
            "answer_tokens": max_new_tokens,
            "seed": seed,
            **({} if len(settings) == len(SETTINGS) else {"settings": settings}),
            **asked.plan.identity,
        },
        labels={
            "scores": shown_name(run) if run else None,
            "budgets": [candidate.budget for candidate in candidates],
            "methods": [describe_method(candidate, cut_point) for candidate in candidates],
            **asked.plan.labels,
            "model": loaded.layout.id,
            "layout": loaded.layout.to_json(),
            "threads": torch.get_num_threads(),
        },
    )
    return PlannedEvaluation(
        subject=f"{loaded.layout.name}, {title(asked.name)}",
        questions=asked.questions,
        keys=question_keys(asked.questions, candidates, loaded.layout),
        methods=with_baselines(candidates, seed=seed, without=without),
        metric=metric,
        seed=seed,
        plan=plan,
        out=out,
        name=asked.name,
        settings=settings,
    )


def _without(
    loaded: LoadedModel, candidates: Sequence[Method], longest: int, *, shorter: str
) -> list[str]:
    """Leave out KVzip's baselines where the model's context has no room to repeat a prompt.

    ``shorter`` says what would leave more room.

    Raises:
        UsageError: a candidate needs that room.
    """
    if can_repeat(longest, loaded.tokenizer, max_context=loaded.max_context):
        return []
    problem = (
        f"prompts of {longest} tokens leave no room to repeat them in the model's context of "
        f"{loaded.max_context}"
    )
    for name in sorted({name for one in candidates for name in one.selections}):
        if "reconstruction" in needs_of({name}):
            message = f"{problem}: try {shorter}"
            raise UsageError(message, option="selection", value=name)
    left = [KVZIP, KVZIP_GLOBAL]
    message = f"{problem}: baselines {' and '.join(left)} are left out; {shorter} let them in"
    warnings.warn(message, HeadprobeWarning, stacklevel=3)
    return left


def _contexts(questions: Sequence[Question]) -> list[int]:
    """List the lengths at which caches are compressed, in tokens."""
    return sorted({len(ids) for one in questions for ids in (one.context_ids, one.input_ids)})

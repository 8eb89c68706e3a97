"""Plan an evaluation from its options: the questions, the methods, and where results go."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from headprobe.allocators.mixing import WeightedRun
from headprobe.budgets import HeadBudgets
from headprobe.compression.reconstruction import can_repeat
from headprobe.compression.selections import needs_of
from headprobe.errors import HeadprobeWarning, UsageError
from headprobe.evaluation.baselines import KVZIP, with_baselines
from headprobe.evaluation.methods import (
    CutPoint,
    Method,
    MethodOptions,
    build_methods,
    check_fit,
)
from headprobe.evaluation.questions import Question, questions_of, read_questions
from headprobe.evaluation.results import MethodResult
from headprobe.files import file_digest, json_digest
from headprobe.models.layout import HeadLayout
from headprobe.models.loading import LoadedModel
from headprobe.prompts.grid import LONGEST_BY_DEFAULT
from headprobe.prompts.spec import CaseSpec
from headprobe.prompts.style import PromptDecision, PromptOptions, describe_options
from headprobe.runs.directory import directory_for, newest_run
from headprobe.runs.draw import ANSWER_RESERVE, draw_cases, longest_prompt, prompt_writer
from headprobe.runs.engine import versions
from headprobe.runs.held_out import check_held_out, held_out_seed, scored_corpus, seeds_of
from headprobe.runs.plan import model_identity
from headprobe.runs.progress import FILE_NAME, Plan, stored_plan
from headprobe.runs.prompt_trial import draw_asked
from headprobe.scores import FILE_NAME as SCORES
from headprobe.scores import HeadScores
from headprobe.scores.titles import title
from headprobe.tasks import DEFAULT_TASK, TASKS, Task, find_task
from headprobe.tasks.grading import METRICS, PASSED


@dataclass(frozen=True, eq=False, kw_only=True)
class PlannedEvaluation:
    """An evaluation as it is known before the model runs.

    ``subject`` is the model and what it is asked; an evaluation resumes an earlier one whose
    ``plan`` has the same identity; strategies are compared by ``metric``. ``keys`` are a digest of
    each question and of how it is answered.
    """

    subject: str
    questions: Sequence[Question]
    keys: Sequence[str]
    methods: Sequence[Method]
    metric: str
    seed: int
    plan: Plan
    out: Path

    @property
    def summary(self) -> str:
        """The plan in one line, for the terminal."""
        return (
            f"{self.subject}: {len(self.questions)} questions with the full cache and under "
            f"{len(self.methods)} budgets, baselines among them, in two settings"
        )

    def report(self, results: Sequence[MethodResult]) -> dict[str, Any]:
        """Build the part of ``evaluation.json`` that states the plan and the results."""
        return {
            "plan": self.plan.to_json(),
            "questions": len(self.questions),
            "metric": self.metric,
            "results": [asdict(result) for result in results],
            "versions": versions(),
        }


def plan_evaluation(
    loaded: LoadedModel,
    methods: MethodOptions,
    spec: CaseSpec,
    *,
    task: Task | None = None,
    questions: Path | None = None,
    allow_scored_needles: bool = False,
    metric: str = "f1",
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
        questions: a file of the user's own questions, in place of a task's.
        allow_scored_needles: allow needles that the heads were scored on.
        metric: what strategies are compared by.
        max_new_tokens: the most tokens of an answer.
        out: the directory; left out, it is named after model and task.
        prompt: how questions are put.
        overwrite: do not look at how an evaluation in ``out`` put its questions.

    Raises:
        UsageError: an option that makes no sense, a file that is not there or not usable, or cases
            that the heads were scored on.
        HeadprobeError: a file is damaged.
    """
    run = _find_run(methods)
    known = HeadScores.load(run) if run else None
    grades = [*METRICS, *([] if questions else [PASSED])]
    if metric not in grades:
        raise ValueError(f"expected a metric of {grades}, got {metric!r}")
    candidates = build_methods(methods, [WeightedRun(name=str(run), scores=known)] if known else [])
    chosen = task or _task_of(known)
    out = out or directory_for(
        loaded.label, f"evaluate-{questions.stem if questions else chosen.name}"
    )
    earlier = {} if overwrite else stored_plan(out / FILE_NAME)
    way = _Way(prompt=prompt or PromptOptions(), plans=[earlier, known.plan if known else {}])
    if questions is not None:
        asked = _read(loaded, questions, spec, max_new_tokens, way, task)
    else:
        scored = _scored_runs(run, methods.files)
        corpus = scored_corpus([known] if known else [])
        seed = _seed(spec.seed, known, scored, allow_scored_needles=allow_scored_needles)
        asked = _draw(
            loaded,
            chosen,
            replace(spec, needles=spec.needles or corpus, seed=seed),
            way,
            max_new_tokens=max_new_tokens,
            others=[] if allow_scored_needles else scored,
            allow_scored_needles=allow_scored_needles,
        )
    contexts = _contexts(asked.questions)
    check_fit(candidates, loaded.layout, contexts)
    without = _without(loaded, candidates, max(contexts))
    seed = asked.plan.identity.get("seed", spec.seed or 0)
    # At one length, whatever the questions: what else they are asked with does not matter.
    cut_point = CutPoint.whole(loaded.layout, tokens=LONGEST_BY_DEFAULT)
    plan = Plan(
        identity={
            "kind": "evaluate",
            **model_identity(loaded),
            "methods_digest": _digest(candidates, cut_point),
            "answer_tokens": max_new_tokens,
            "seed": seed,
            **asked.plan.identity,
        },
        labels={
            "scores": str(run) if run else None,
            "budgets": [candidate.budget for candidate in candidates],
            "methods": [_recorded(candidate, cut_point) for candidate in candidates],
            **asked.plan.labels,
            "model": loaded.layout.id,
            "layout": loaded.layout.to_json(),
            "threads": torch.get_num_threads(),
        },
    )
    return PlannedEvaluation(
        subject=f"{loaded.layout.id}, {title(asked.name)}",
        questions=asked.questions,
        keys=_keys(asked.questions, candidates, loaded.layout),
        methods=with_baselines(candidates, seed=seed, without=without),
        metric=metric,
        seed=seed,
        plan=plan,
        out=out,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class _Way:
    """The user's prompt options, and the earlier plans that settle what the options leave open."""

    prompt: PromptOptions
    plans: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Asked:
    """Questions, their name, and the plan of the options that made them."""

    name: str
    questions: Sequence[Question]
    plan: Plan


def _read(
    loaded: LoadedModel,
    path: Path,
    spec: CaseSpec,
    max_new_tokens: int | None,
    way: _Way,
    task: Task | None,
) -> _Asked:
    """Read the user's own questions, with which a task's options make no sense."""
    own = {name: getattr(spec, name) for name in ("lengths", "depths", "needles", "haystack")}
    for option, value in [("task", task), *own.items()]:
        if value is not None:
            raise UsageError("`questions` brings its own questions: leave it out", option=option)
    decision = PromptDecision.known(way.prompt, loaded.tokenizer, way.plans)
    settled = replace(way.prompt, style=decision.used or "prefix")
    writer = prompt_writer(loaded, TASKS["retrieval"].probe, (), settled)
    questions = read_questions(
        path,
        writer,
        longest=longest_prompt(loaded.max_context, answer_reserve=_reserve(max_new_tokens)),
        limit=spec.limit,
        max_new_tokens=max_new_tokens,
    )
    plan = Plan(
        identity={
            "questions_digest": file_digest(path),
            "prompt_style": writer.style,
            **describe_options(settled, loaded.tokenizer),
        },
        labels={"questions": str(path), "limit": spec.limit, **decision.in_plan()},
    )
    return _Asked(name=path.stem, questions=questions, plan=plan)


def _draw(
    loaded: LoadedModel,
    task: Task,
    spec: CaseSpec,
    way: _Way,
    *,
    max_new_tokens: int | None,
    others: Sequence[Path],
    allow_scored_needles: bool,
) -> _Asked:
    """Draw a task's cases at its longest length, on needles that the runs ``others`` lack."""
    reserve = _reserve(max_new_tokens)
    spec = replace(spec, lengths=spec.lengths or (_longest(loaded, reserve),))
    drawn, decision = draw_asked(
        loaded,
        task,
        lambda prompt: draw_cases(
            loaded,
            task.probe,
            spec,
            held_out=not allow_scored_needles,
            answer_reserve=reserve,
            prompt=prompt,
        ),
        prompt=way.prompt,
        plans=way.plans,
        seed=spec.seed or 0,
    )
    check_held_out(drawn, others, loaded.tokenizer)
    return _Asked(
        name=task.name,
        questions=questions_of(drawn, task.probe, max_new_tokens=max_new_tokens),
        plan=Plan(
            identity={
                "task": task.name,
                "scored_cases": allow_scored_needles,
                **drawn.plan.identity,
            },
            labels={**drawn.plan.labels, **decision.in_plan()},
        ),
    )


def _task_of(known: HeadScores | None) -> Task:
    """Return the task that heads were scored on if it asks for answers, else the default task."""
    task = find_task(known.task) if known else None
    return task if task and task.asks else TASKS[DEFAULT_TASK]


def _find_run(methods: MethodOptions) -> Path | None:
    """Find the run whose scores divide sizes; of budget files alone, the run that they lie in."""
    if methods.scores is not None:
        return methods.scores
    if len(methods.files) < len(methods.budgets):
        return newest_run()
    beside = methods.files[0].parent
    return beside if (beside / SCORES).is_file() else None


def _recorded(candidate: Method, cut_point: CutPoint) -> dict[str, Any]:
    """Describe how a candidate divides its budget."""
    made = candidate.at(cut_point)
    own = {
        "budget": candidate.budget,
        "selection": candidate.selection,
        "window": made.window,
        "granularity": made.granularity,
    }
    return {**made.strategy, "name": candidate.strategy, **own}


def _scored_runs(run: Path | None, files: Sequence[Path]) -> list[Path]:
    """Find the runs that may hold the cases that heads were scored on.

    They are the runs that a budget file names, and the run that it lies in.
    """
    found: list[Path] = []
    for file in files:
        recorded = HeadBudgets.load(file).strategy.get("scores")
        parts = recorded if isinstance(recorded, list) else []
        named = [
            Path(str(part["run"])) for part in parts if isinstance(part, dict) and "run" in part
        ]
        beside = file.parent
        if (beside / SCORES).is_file() or not named:
            named = [beside, *(path for path in named if path.exists())]
        found += named
    return found if run is None else [*found, run]


def _seed(
    given: int | None,
    known: HeadScores | None,
    scored: Sequence[Path],
    *,
    allow_scored_needles: bool,
) -> int:
    if allow_scored_needles:
        return given if given is not None else max(seeds_of([known] if known else []), default=0)
    folders = {path.parent if path.is_file() else path for path in scored}
    files = [folder / SCORES for folder in folders]
    runs = [HeadScores.load(file) for file in files if file.is_file()]
    return held_out_seed(given, seeds_of([*runs, *([known] if known else [])]))


def _reserve(max_new_tokens: int | None) -> int:
    """Return the number of tokens that a prompt leaves to the answer."""
    return max(ANSWER_RESERVE, max_new_tokens or 0)


def _without(loaded: LoadedModel, candidates: Sequence[Method], longest: int) -> list[str]:
    """Leave out baseline kvzip where the model's context has no room to repeat a prompt.

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
            message = f"{problem}: try shorter `lengths`"
            raise UsageError(message, option="selection", value=name)
    message = f"{problem}: baseline {KVZIP} is left out; shorter `lengths` let it in"
    warnings.warn(message, HeadprobeWarning, stacklevel=3)
    return [KVZIP]


def _longest(loaded: LoadedModel, reserve: int) -> int:
    longest = longest_prompt(loaded.max_context, answer_reserve=reserve)
    return min(LONGEST_BY_DEFAULT, longest or LONGEST_BY_DEFAULT)


def _contexts(questions: Sequence[Question]) -> list[int]:
    """List the lengths at which caches are compressed, in tokens."""
    contexts = {len(one.context_ids) for one in questions}
    prompts = {len(one.context_ids) + len(one.question_ids) for one in questions}
    return sorted(contexts | prompts)


def _keys(
    questions: Sequence[Question], candidates: Sequence[Method], layout: HeadLayout
) -> list[str]:
    """Compute a digest of each question and of the entries that heads keep of it."""

    @cache
    def entries(tokens: int) -> str:
        cut_point = CutPoint.whole(layout, tokens=tokens)
        return _digest(candidates, cut_point)

    return [
        json_digest(
            [
                one.key,
                entries(len(one.context_ids)),
                entries(len(one.context_ids) + len(one.question_ids)),
            ]
        )
        for one in questions
    ]


def _digest(candidates: Sequence[Method], cut_point: CutPoint) -> str:
    """Compute a digest that tells budgets apart, whatever their model and scores are called."""
    made = [candidate.at(cut_point).to_json() for candidate in candidates]
    for budgets in made:
        budgets["model"] = budgets["model"] | {"id": None}
        budgets["strategy"] = {n: v for n, v in budgets["strategy"].items() if n != "scores"}
    return json_digest(made)

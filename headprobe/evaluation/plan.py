"""What an evaluation is, from its options: questions, contenders, and where the results go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from headprobe.allocators.mixing import WeightedRun
from headprobe.budgets import HeadBudgets
from headprobe.errors import UsageError
from headprobe.evaluation.baselines import with_baselines
from headprobe.evaluation.methods import (
    CutPoint,
    Method,
    build_methods,
    check_fit,
    is_file,
    split_budgets,
)
from headprobe.evaluation.questions import Question, questions_of, read_questions
from headprobe.evaluation.results import MethodResult
from headprobe.files import json_digest
from headprobe.models.loading import LoadedModel
from headprobe.prompts.grid import LONGEST_BY_DEFAULT
from headprobe.prompts.style import PromptDecision, PromptOptions, describe_options
from headprobe.runs.directory import directory_for, newest_run
from headprobe.runs.draw import ANSWER_RESERVE, draw_cases, longest_prompt, prompt_writer
from headprobe.runs.held_out import check_held_out, held_out_seed, scored_corpus, seeds_of
from headprobe.runs.progress import stored_plan
from headprobe.runs.prompt_trial import draw_asked
from headprobe.runs.score import versions
from headprobe.scores import FILE_NAME as SCORES
from headprobe.scores import HeadScores
from headprobe.tasks import DEFAULT_TASK, TASKS, asks, get_asking_task
from headprobe.tasks.grading import METRICS, PASSED

JOURNAL = "evaluation.sqlite"
STRATEGY = "headkv"
LIMIT = 96


@dataclass(frozen=True, eq=False, kw_only=True)
class PlannedEvaluation:
    """Everything that is known before the model runs.

    ``subject`` is the model and what it is asked; ``plan`` holds every option that changes the
    numbers; strategies are compared by ``metric``.
    """

    subject: str
    questions: Sequence[Question]
    methods: Sequence[Method]
    metric: str
    seed: int
    plan: Mapping[str, Any]
    out: Path

    @property
    def summary(self) -> str:
        """One line for the terminal."""
        return (
            f"{self.subject}: {len(self.questions)} questions with the full cache and under "
            f"{len(self.methods)} budgets, baselines among them, in two settings"
        )

    def report(self, results: Sequence[MethodResult]) -> dict[str, Any]:
        """The content of ``results.json``."""
        return {
            "plan": dict(self.plan),
            "questions": len(self.questions),
            "metric": self.metric,
            "results": [asdict(result) for result in results],
            "versions": versions(),
        }


def plan_evaluation(
    loaded: LoadedModel,
    *,
    budgets: Sequence[str],
    scores: Path | None = None,
    task: str | None = None,
    cases: Path | None = None,
    strategies: Sequence[str] = (),
    metric: str = "f1",
    allow_scored_needles: bool = False,
    limit: int | None = None,
    max_new_tokens: int | None = None,
    seed: int | None = None,
    out: Path | None = None,
    drawing: Mapping[str, Any] | None = None,
    prompt: PromptOptions | None = None,
    overwrite: bool = False,
    **options: Any,
) -> PlannedEvaluation:
    """What is to be asked, and under which budgets.

    ``budgets`` are as typed, sizes or files; ``strategies``, headkv where none is named, and
    ``options``, those of allocating, are for sizes. These are divided by the scores of a run, the
    newest if none is named. ``drawing`` are further options of ``draw_cases``. A ``limit`` of 0
    asks everything; left out, it is ``LIMIT`` for a task's cases. As long as ``prompt`` leaves the
    style open, questions are put as that run's were; where it says nothing, a trial decides on a
    task's, and one's own take prefix.

    Raises:
        UsageError: an option that makes no sense, a file that is not there or not usable, or cases
            that the heads were scored on.
        HeadprobeError: a file is damaged.
    """
    given = {name: value for name, value in options.items() if value is not None}
    budgets = split_budgets(budgets)
    if all(map(is_file, budgets)):
        for name in [*(["strategy"] if strategies else []), *given]:
            raise UsageError(
                "says how sizes are divided: leave it out, or give `budget` a size", option=name
            )
    run = _find_run(scores, budgets)
    known = HeadScores.load(run) if run else None
    grades = [*METRICS, *([] if cases else [PASSED])]
    if metric not in grades:
        raise UsageError(f"expected {', '.join(grades)}", option="metric", value=metric)
    runs = [WeightedRun(name=str(run), scores=known)] if known else []
    candidates = build_methods(budgets, runs, strategies=strategies or [STRATEGY], **given)
    name = task or (known.task if known and asks(known.task) else DEFAULT_TASK)
    out = out or directory_for(loaded.label, f"evaluate-{cases.stem if cases else name}")
    way = _Way(
        prompt=prompt or PromptOptions(),
        plans=[{} if overwrite else stored_plan(out / JOURNAL), known.plan if known else {}],
    )
    if cases is not None:
        asked = _read(loaded, cases, limit, max_new_tokens, way, {"task": task, **(drawing or {})})
    else:
        scored = _runs_behind(run, budgets)
        asked = _draw(
            loaded,
            name,
            way,
            limit=LIMIT if limit is None else limit or None,
            seed=_seed(seed, known, scored, allow_scored_needles=allow_scored_needles),
            max_new_tokens=max_new_tokens,
            others=[] if allow_scored_needles else scored,
            allow_scored_needles=allow_scored_needles,
            drawing=drawing or {},
            corpus=scored_corpus([known] if known else []),
        )
    contexts = _contexts(asked.questions)
    check_fit(candidates, loaded.layout, contexts)
    cut_points = [CutPoint.whole(loaded.layout, tokens=tokens) for tokens in contexts]
    seed = asked.plan.get("seed", seed or 0)
    return PlannedEvaluation(
        subject=f"{loaded.layout.id}, {asked.name}",
        questions=asked.questions,
        methods=with_baselines(candidates, seed=seed),
        metric=metric,
        seed=seed,
        plan={
            "model": loaded.layout.to_json(),
            "weights": loaded.fingerprint,
            "dtype": loaded.dtype,
            "attention": loaded.attention,
            "device": loaded.device.type,
            "scores": str(run) if run else None,
            "budgets": list(budgets),
            "entrants": [_recorded(candidate, cut_points[-1]) for candidate in candidates],
            "entries": json_digest(
                [one.at(cut_point).to_json() for one in candidates for cut_point in cut_points]
            ),
            "answer_tokens": max_new_tokens,
            "seed": seed,
            **asked.plan,
        },
        out=out,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class _Way:
    """How questions are put: as the user wants it, and as earlier plans did."""

    prompt: PromptOptions
    plans: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Asked:
    """Questions, what to call them, and the options that made them."""

    name: str
    questions: Sequence[Question]
    plan: Mapping[str, Any]


def _read(
    loaded: LoadedModel,
    cases: Path,
    limit: int | None,
    max_new_tokens: int | None,
    way: _Way,
    unused: Mapping[str, Any],
) -> _Asked:
    """One's own questions, with which a task's options make no sense."""
    for option, value in unused.items():
        if value is not None:
            raise UsageError("`questions` brings its own questions: leave it out", option=option)
    decision = PromptDecision.known(way.prompt, loaded.tokenizer, way.plans)
    settled = replace(way.prompt, style=decision.used or "prefix")
    writer = prompt_writer(loaded, TASKS["retrieval"].probe, (), settled)
    questions = read_questions(
        cases,
        writer,
        longest=longest_prompt(loaded.max_context, answer_reserve=_reserve(max_new_tokens)),
        limit=limit or None,
        max_new_tokens=max_new_tokens,
    )
    prompts = json_digest([(one.context_ids, one.question_ids) for one in questions])
    plan = {
        "cases": str(cases),
        "limit": limit,
        "prompt_style": writer.style,
        **decision.in_plan(),
        **describe_options(settled, loaded.tokenizer),
        "prompts": prompts,
    }
    return _Asked(name=cases.stem, questions=questions, plan=plan)


def _draw(
    loaded: LoadedModel,
    task: str,
    way: _Way,
    *,
    limit: int | None,
    seed: int,
    max_new_tokens: int | None,
    others: Sequence[Path],
    allow_scored_needles: bool,
    drawing: Mapping[str, Any],
    corpus: Path | None,
) -> _Asked:
    """A task's cases at its longest length, on needles other than those of some runs.

    ``corpus`` names the bundled needles where ``drawing`` names none.
    """
    chosen = get_asking_task(task)
    given = {name: value for name, value in drawing.items() if value is not None}
    reserve = _reserve(max_new_tokens)
    drawn, decision = draw_asked(
        loaded,
        chosen,
        lambda prompt: draw_cases(
            loaded,
            chosen.probe,
            limit=limit,
            seed=seed,
            held_out=not allow_scored_needles,
            answer_reserve=reserve,
            prompt=prompt,
            **{"lengths": _longest(loaded, reserve), "needles": corpus, **given},
        ),
        prompt=way.prompt,
        plans=way.plans,
        seed=seed,
    )
    check_held_out(drawn, others, loaded.tokenizer)
    return _Asked(
        name=task,
        questions=questions_of(drawn, chosen.probe, max_new_tokens=max_new_tokens),
        plan={
            "task": task,
            "scored_cases": allow_scored_needles,
            **decision.in_plan(),
            **drawn.options,
        },
    )


def _find_run(named: Path | None, budgets: Sequence[str]) -> Path | None:
    """The run whose scores divide sizes; of budget files alone, the one that they lie in."""
    if named is not None:
        return named
    if not all(map(is_file, budgets)):
        return newest_run()
    beside = Path(budgets[0]).parent
    return beside if (beside / SCORES).is_file() else None


def _recorded(candidate: Method, cut_point: CutPoint) -> dict[str, Any]:
    """How an entrant divides its budget."""
    made = candidate.at(cut_point)
    own = {"budget": candidate.budget, "window": made.window, "granularity": made.granularity}
    return {**made.strategy, "name": candidate.strategy, **own}


def _runs_behind(run: Path | None, budgets: Sequence[str]) -> list[Path]:
    """Where the cases may be that heads were scored on.

    The runs that a budget file names, and the one that it lies in.
    """
    behind: list[Path] = []
    for text in filter(is_file, budgets):
        recorded = HeadBudgets.load(Path(text)).strategy.get("scores")
        parts = recorded if isinstance(recorded, list) else []
        named = [
            Path(str(part["run"])) for part in parts if isinstance(part, dict) and "run" in part
        ]
        beside = Path(text).parent
        if (beside / SCORES).is_file() or not named:
            named = [beside, *(path for path in named if path.exists())]
        behind += named
    return behind if run is None else [*behind, run]


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
    behind = [HeadScores.load(file) for file in files if file.is_file()]
    return held_out_seed(given, seeds_of([*behind, *([known] if known else [])]))


def _reserve(max_new_tokens: int | None) -> int:
    """Tokens that a prompt leaves to the answer."""
    return max(ANSWER_RESERVE, max_new_tokens or 0)


def _longest(loaded: LoadedModel, reserve: int) -> str:
    longest = longest_prompt(loaded.max_context, answer_reserve=reserve)
    return str(min(LONGEST_BY_DEFAULT, longest or LONGEST_BY_DEFAULT))


def _contexts(questions: Sequence[Question]) -> list[int]:
    """The lengths at which caches are cut, in tokens."""
    contexts = {len(one.context_ids) for one in questions}
    prompts = {len(one.context_ids) + len(one.question_ids) for one in questions}
    return sorted(contexts | prompts)

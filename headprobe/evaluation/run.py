"""An evaluation from its options to its directory: questions, contenders, answers, files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headprobe import rundir, scores
from headprobe.errors import UsageError
from headprobe.evaluation.answering import evaluate
from headprobe.evaluation.contenders import Contender, check_fit, line_up, with_baselines
from headprobe.evaluation.outcomes import PICTURE, Outcome, write
from headprobe.evaluation.questions import Question, questions_of, read_questions
from headprobe.grid import LONGEST_BY_DEFAULT
from headprobe.held_out import check_held_out, held_out_seed
from headprobe.metrics import ACCEPTED, METRICS
from headprobe.mixing import WeightedRun
from headprobe.model import LoadedModel
from headprobe.planning import draw_cases, longest_prompt
from headprobe.plots import draw_evaluation, save
from headprobe.scores import HeadScores
from headprobe.scoring import versions
from headprobe.tasks import TASKS, get_task

DEFAULT_TASK = "r2"
LIMIT = 96


@dataclass(frozen=True, eq=False, kw_only=True)
class PlannedEvaluation:
    """Everything that is known before the model runs.

    ``subject`` is the model and what it is asked; ``plan`` holds every option that changes the
    numbers; strategies are compared by ``metric``.
    """

    subject: str
    questions: Sequence[Question]
    contenders: Sequence[Contender]
    metric: str
    seed: int
    plan: Mapping[str, Any]
    out: Path

    @property
    def summary(self) -> str:
        """One line for the terminal."""
        return (
            f"{self.subject}: {len(self.questions)} questions with the full cache and under "
            f"{len(self.contenders)} budgets, baselines among them, in two settings"
        )

    def report(self, outcomes: Sequence[Outcome]) -> dict[str, Any]:
        """The content of ``results.json``."""
        return {
            "plan": dict(self.plan),
            "questions": len(self.questions),
            "metric": self.metric,
            "results": [asdict(outcome) for outcome in outcomes],
            "versions": versions(),
        }


def plan_evaluation(
    loaded: LoadedModel,
    *,
    budgets: Sequence[str],
    scores: Path | None = None,
    task: str | None = None,
    cases: Path | None = None,
    strategies: Sequence[str] = ("headkv",),
    metric: str = "f1",
    scored_cases: bool = False,
    limit: int | None = None,
    answer_tokens: int | None = None,
    seed: int | None = None,
    out: Path | None = None,
    drawing: Mapping[str, Any] | None = None,
    **options: Any,
) -> PlannedEvaluation:
    """What is to be asked, and under which budgets.

    ``budgets`` are as typed, sizes or files; ``options`` those of allocating. Sizes are divided by
    the scores of a run, the newest if none is named. ``drawing`` are further options of
    ``draw_cases``. A ``limit`` of 0 asks everything; left out, it is ``LIMIT`` for a task's cases.

    Raises:
        UsageError: an option that makes no sense, a file that is not there or not usable, or cases
            that the heads were scored on.
        HeadprobeError: a file is damaged.
    """
    run = _find_run(scores, budgets)
    known = HeadScores.load(run) if run else None
    graded = [*METRICS, *([] if cases else [ACCEPTED])]
    if metric not in graded:
        raise UsageError(f"--metric takes {', '.join(graded)}, got {metric!r}")
    runs = [WeightedRun(name=str(run), scores=known)] if known else []
    entrants = line_up(budgets, runs, strategies=strategies, **options)
    if cases is not None:
        asked = _read(loaded, cases, limit, answer_tokens, {"task": task, **(drawing or {})})
    else:
        asked = _draw(
            loaded,
            task or (known.task if known and known.task in TASKS else DEFAULT_TASK),
            limit=LIMIT if limit is None else limit or None,
            seed=_seed(seed, known, scored_cases=scored_cases),
            most_steps=answer_tokens,
            others=[] if scored_cases else _runs_behind(run, budgets),
            scored_cases=scored_cases,
            drawing=drawing or {},
        )
    check_fit(entrants, loaded.layout, _contexts(asked.questions))
    seed = asked.plan.get("seed", seed or 0)
    return PlannedEvaluation(
        subject=f"{loaded.layout.id}, {asked.name}",
        questions=asked.questions,
        contenders=with_baselines(entrants, seed=seed),
        metric=metric,
        seed=seed,
        plan={
            "model": loaded.layout.to_json(),
            "weights": loaded.fingerprint,
            "dtype": loaded.dtype,
            "device": loaded.device.type,
            "scores": str(run) if run else None,
            "budgets": list(budgets),
            "strategies": list(strategies),
            "answer_tokens": answer_tokens,
            "seed": seed,
            **options,
            **asked.plan,
        },
        out=out or rundir.directory_for(loaded.name, f"evaluate-{asked.name}"),
    )


def run_evaluation(
    loaded: LoadedModel,
    planned: PlannedEvaluation,
    *,
    advance: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """Ask everything and write the directory; ``advance`` is called after each question.

    Raises:
        Interrupted: Ctrl-C; nothing is written then.
        HeadprobeError: the model's cache cannot be cut, or a file cannot be written.
    """
    found = evaluate(loaded, planned.questions, planned.contenders, advance=advance)
    outcomes = found.outcomes(metric=planned.metric, seed=planned.seed)
    picture = draw_evaluation(outcomes, metric=planned.metric, subject=planned.subject)
    save(picture, planned.out / PICTURE)
    write(found, outcomes, planned.out, report=planned.report(outcomes))
    return outcomes


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
    most_steps: int | None,
    unused: Mapping[str, Any],
) -> _Asked:
    """One's own questions, with which a task's options make no sense."""
    for option, value in unused.items():
        if value is not None:
            raise UsageError(f"--cases brings its own questions: leave out --{option}")
    questions = read_questions(
        cases,
        loaded.tokenizer,
        longest=longest_prompt(loaded.window),
        limit=limit or None,
        most_steps=most_steps,
    )
    return _Asked(name=cases.stem, questions=questions, plan={"cases": str(cases), "limit": limit})


def _draw(
    loaded: LoadedModel,
    task: str,
    *,
    limit: int | None,
    seed: int,
    most_steps: int | None,
    others: Sequence[Path],
    scored_cases: bool,
    drawing: Mapping[str, Any],
) -> _Asked:
    """A task's cases at its longest length, on needles other than those of some runs."""
    probe = get_task(task).probe
    given = {name: value for name, value in drawing.items() if value is not None}
    drawn = draw_cases(
        loaded,
        probe,
        limit=limit,
        seed=seed,
        held_out=not scored_cases,
        **{"lengths": _longest(loaded), **given},
    )
    check_held_out(drawn, others, loaded.tokenizer)
    return _Asked(
        name=task,
        questions=questions_of(drawn, probe, loaded.tokenizer, most_steps=most_steps),
        plan={"task": task, "scored_cases": scored_cases, **drawn.options},
    )


def _find_run(named: Path | None, budgets: Sequence[str]) -> Path | None:
    """The run whose scores divide sizes; of budget files alone, the one that they lie in."""
    if named is not None:
        return named
    if not all(text.endswith(".json") for text in budgets):
        return rundir.newest_run()
    beside = Path(budgets[0]).parent
    return beside if (beside / scores.FILE_NAME).is_file() else None


def _runs_behind(run: Path | None, budgets: Sequence[str]) -> list[Path]:
    """Where the cases may be that heads were scored on."""
    folders = [Path(text).parent for text in budgets if text.endswith(".json")]
    if run is not None:
        folders.append(run)
    return folders


def _seed(given: int | None, known: HeadScores | None, *, scored_cases: bool) -> int:
    theirs = known.plan.get("seed") if known else None
    if scored_cases:
        return given if given is not None else int(theirs or 0)
    return held_out_seed(given, theirs)


def _longest(loaded: LoadedModel) -> str:
    longest = longest_prompt(loaded.window)
    return str(min(LONGEST_BY_DEFAULT, longest or LONGEST_BY_DEFAULT))


def _contexts(questions: Sequence[Question]) -> list[int]:
    """The lengths at which caches are cut, in tokens."""
    contexts = {len(one.context_ids) for one in questions}
    prompts = {len(one.context_ids) + len(one.question_ids) for one in questions}
    return sorted(contexts | prompts)

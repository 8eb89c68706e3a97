"""Question sets: the user's own questions, or a task's cases on needles not scored on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headprobe.errors import UsageError
from headprobe.evaluation.questions import Question, questions_of, read_questions, reserve_for
from headprobe.models.loading import LoadedModel
from headprobe.prompts.data_sets import is_of_hub, source_digest
from headprobe.prompts.grid import LONGEST_BY_DEFAULT
from headprobe.prompts.spec import CaseSpec
from headprobe.prompts.style import PromptDecision, PromptOptions, describe_options
from headprobe.runs.draw import draw_cases, longest_prompt, prompt_writer
from headprobe.runs.held_out import check_held_out
from headprobe.runs.identity import Plan
from headprobe.runs.prompt_trial import draw_asked
from headprobe.tasks import TASKS, Task


@dataclass(frozen=True, eq=False, kw_only=True)
class PromptSources:
    """The user's prompt options, and the earlier plans that settle what the options leave open."""

    prompt: PromptOptions
    plans: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, eq=False, kw_only=True)
class QuestionSet:
    """Questions, their name, and the plan of the options that made them."""

    name: str
    questions: Sequence[Question]
    plan: Plan


def read_own_questions(
    loaded: LoadedModel,
    source: str | Path,
    spec: CaseSpec,
    sources: PromptSources,
    *,
    max_new_tokens: int | None,
    task: Task | None,
) -> QuestionSet:
    """Read the user's own questions.

    Raises:
        UsageError: a task's option is given, or the file is not there or not usable.
    """
    own = {name: getattr(spec, name) for name in ("lengths", "depths", "needles", "haystack")}
    for option, value in [("task", task), *own.items()]:
        if value is not None:
            raise UsageError("`questions` brings its own questions: leave it out", option=option)
    decision = PromptDecision.known(sources.prompt, loaded.tokenizer, sources.plans)
    settled = replace(sources.prompt, style=decision.used or "prefix")
    writer = prompt_writer(loaded, TASKS["retrieval"].probe, (), settled)
    questions = read_questions(
        source,
        writer,
        max_context=loaded.max_context,
        limit=spec.limit,
        max_new_tokens=max_new_tokens,
    )
    plan = Plan(
        identity={
            "questions_digest": source_digest(source),
            "prompt_style": writer.style,
            **describe_options(settled, loaded.tokenizer),
        },
        labels={"questions": str(source), "limit": spec.limit, **decision.in_plan()},
    )
    return QuestionSet(name=source_name(source), questions=questions, plan=plan)


def source_name(source: str | Path) -> str:
    """Return what questions are called by: the file's name, or the data set's with dashes."""
    if is_of_hub(source):
        return str(source).partition(":")[2].replace("/", "--")
    return Path(source).stem


def draw_questions(
    loaded: LoadedModel,
    task: Task,
    spec: CaseSpec,
    sources: PromptSources,
    *,
    max_new_tokens: int | None,
    scored: Sequence[Path],
    allow_scored_needles: bool,
) -> QuestionSet:
    """Draw a task's cases, by default at its longest length.

    Raises:
        UsageError: an option does not apply, a file is missing or unusable, or a needle was asked
            in one of the runs ``scored``, unless that is allowed.
    """
    reserve = reserve_for(max_new_tokens)
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
        prompt=sources.prompt,
        plans=sources.plans,
        seed=spec.seed or 0,
    )
    check_held_out(drawn, [] if allow_scored_needles else scored, loaded.tokenizer)
    return QuestionSet(
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


def _longest(loaded: LoadedModel, reserve: int) -> int:
    longest = longest_prompt(loaded.max_context, answer_reserve=reserve)
    return min(LONGEST_BY_DEFAULT, longest or LONGEST_BY_DEFAULT)

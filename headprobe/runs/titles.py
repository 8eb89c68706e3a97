"""Facts of runs that titles say beside scores: cases, how many passed, the prompt style."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from headprobe.prompts.style import PromptDecision
from headprobe.runs.pass_rates import describe_counts
from headprobe.scores import HeadScores
from headprobe.scores.titles import title


def run_facts(run: HeadScores) -> tuple[str, ...]:
    """Return facts on a run, as in ("61 of 100 cases passed", "prompt chat")."""
    decision = PromptDecision.in_record(run.plan)
    return _facts(run.task, run.cases, run.passed, decision.used if decision else None)


def runs_facts(runs: Iterable[HeadScores]) -> list[str]:
    """Return a line a run, without its model and task where all are one run."""
    facts = {id(run): (run, ", ".join(run_facts(run))) for run in runs}
    if len(facts) == 1:
        return [told for _, told in facts.values()]
    lines = [f"{run.layout.name}, {title(run.task)}: {told}" for run, told in facts.values()]
    return list(dict.fromkeys(lines))


def sources_facts(strategy: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return facts on each run that a budget was made from, by the record of its ``strategy``."""
    sources: Sequence[Mapping[str, Any]] = strategy.get("scores") or []
    return [
        (
            _subject(source, alone=len(sources) == 1),
            *_facts(source["task"], source["cases"], source["passed"], source["prompt"]),
        )
        for source in sources
        if "cases" in source
    ]


def _subject(source: Mapping[str, Any], *, alone: bool) -> str:
    """Name the task and the measures of a source, and its weight where there are others."""
    names = ", ".join(dict.fromkeys(map(title, (source["task"], *source["measures"]))))
    return names if alone else f"{source['weight']:.0%} of {names}"


def _facts(task: str, cases: int, passed: int, prompt: str | None) -> tuple[str, ...]:
    return describe_counts(task, cases, passed), *([f"prompt {prompt}"] if prompt else [])

"""Choose a chat model's prompt style by a trial on a few short prompts.

The styles are tried from the simplest on; the style with the highest pass rate is used, of equals
the simplest. A style that passes every prompt ends the trial.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from headprobe.errors import UsageError
from headprobe.prompts.build import hide_needles, tokenize_needle
from headprobe.prompts.case import Case
from headprobe.prompts.haystacks import sentences
from headprobe.prompts.needles import Needle
from headprobe.prompts.style import TRIED, PromptDecision, PromptOptions, PromptStyle
from headprobe.runs.case_runner import observe_cases
from headprobe.runs.draw import DrawnCases, prompt_writer
from headprobe.runs.prefix_tree import PrefixTree
from headprobe.tasks import Task

if TYPE_CHECKING:
    from headprobe.models.loading import LoadedModel

_LOG = logging.getLogger(__name__)
HAYSTACK_TOKENS = 100
"""The tokens of prose around the needle of a short prompt."""

MOST_PROMPTS, LEAST_PROMPTS = 16, 8
TRIAL_FRACTION = 0.05
"""The fraction of a run's unique tokens for a trial, unless ``LEAST_PROMPTS`` take more."""


def decide_style(
    loaded: LoadedModel,
    task: Task,
    drawn: DrawnCases,
    *,
    prompt: PromptOptions,
    run_tokens: int,
    seed: int,
) -> PromptDecision:
    """Try the prompt styles on a task's needles and choose the one with the highest pass rate.

    Args:
        loaded: a model with a chat template.
        task: the task, whose probe grades the responses.
        drawn: the run's cases, whose needles are tried, balanced over kinds.
        prompt: the form of prompts, of which the answer prefix is used.
        run_tokens: the run's unique tokens, of which the trial may take the fraction
            ``TRIAL_FRACTION``.
        seed: chooses the needles.

    Raises:
        UsageError: no style fits into the model's max context.
    """
    needles = spread_over_kinds(drawn.needles, seed)[:MOST_PROMPTS]
    tried = {
        style: cases
        for style in TRIED
        if (cases := _short_prompts(loaded, task, drawn, needles, prompt, style, seed))
    }
    if not tried:
        raise UsageError("the model's max context is too short to try prompts; give `prompt`")
    count = affordable(list(tried.values()), tokens=TRIAL_FRACTION * run_tokens)
    asking = replace(task, measures=(), gathers_utility=False)
    passed: dict[str, float] = {}
    for style, cases in tried.items():
        seen = [one.passed for one in observe_cases(loaded, cases[:count], asking)]
        passed[style] = float(np.mean(seen))
        _LOG.info("prompt style %s passes %.2f of %d prompts", style, passed[style], len(seen))
        if all(seen):
            break
    used = max(tried, key=lambda style: passed.get(style, -1.0))
    return PromptDecision(asked="auto", used=used, passed=passed, prompts=count)


def draw_asked(
    loaded: LoadedModel,
    task: Task,
    draw: Callable[[PromptOptions], DrawnCases],
    *,
    prompt: PromptOptions,
    plans: Sequence[Mapping[str, Any]],
    seed: int,
) -> tuple[DrawnCases, PromptDecision]:
    """Draw cases in the style that earlier plans or a trial decide on.

    Args:
        loaded: the model.
        task: the task, whose probe grades the responses.
        draw: draws the cases under some options.
        prompt: the user's options, completed by the decided style.
        plans: plans of earlier runs, whose style is used again.
        seed: chooses the needles of a trial.
    """
    decision = PromptDecision.known(prompt, loaded.tokenizer, plans)
    drawn = draw(decision.settle(prompt))
    if decision.used is None:
        tokens = PrefixTree.of([case.input_ids for case in drawn.cases]).unique_tokens
        decision = decide_style(loaded, task, drawn, prompt=prompt, run_tokens=tokens, seed=seed)
        drawn = draw(decision.settle(prompt))
    return drawn, decision


def spread_over_kinds(needles: Sequence[Needle], seed: int) -> list[Needle]:
    """Shuffle the needles by a seed into an order in which kinds take turns."""
    kinds: dict[str | None, list[Needle]] = {}
    for place in np.random.default_rng(seed).permutation(len(needles)):
        kinds.setdefault(needles[place].kind, []).append(needles[place])
    longest = max(map(len, kinds.values()))
    return [of[turn] for turn in range(longest) for of in kinds.values() if turn < len(of)]


def affordable(tried: Sequence[Sequence[Case]], *, tokens: float) -> int:
    """Count the prompts of every style that fit into a number of unique tokens; at least a few."""
    most = min(map(len, tried))
    for count in range(most, LEAST_PROMPTS, -1):
        prompts = [[case.input_ids for case in cases[:count]] for cases in tried]
        if sum(PrefixTree.of(of_style).unique_tokens for of_style in prompts) <= tokens:
            return count
    return min(most, LEAST_PROMPTS)


def _short_prompts(
    loaded: LoadedModel,
    task: Task,
    drawn: DrawnCases,
    needles: Sequence[Needle],
    prompt: PromptOptions,
    style: PromptStyle,
    seed: int,
) -> list[Case]:
    """Build a prompt for each needle, with the needle in the middle; none if they do not fit."""
    writer = prompt_writer(loaded, task.probe, needles, replace(prompt, style=style))
    try:
        longest = max(tokenize_needle(needle, writer).size for needle in needles)
    except UsageError:
        # Every worked example shares words with a needle of the user's own file.
        return []
    cases = hide_needles(
        needles,
        sentences=sentences(drawn.haystack, seed=seed),
        writer=writer,
        lengths=[longest + HAYSTACK_TOKENS],
        depths=[50.0],
    )
    end = max(case.length + task.probe.max_new_tokens(case) for case in cases)
    return cases if loaded.max_context is None or end <= loaded.max_context else []

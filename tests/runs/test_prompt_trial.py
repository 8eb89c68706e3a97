"""How a chat model is asked is decided on a few short prompts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from headprobe.errors import UsageError
from headprobe.models.loading import LoadedModel, load_model
from headprobe.prompts.case import Case
from headprobe.prompts.needles import Needle
from headprobe.prompts.spec import CaseSpec
from headprobe.prompts.style import TRIED, PromptDecision, PromptOptions
from headprobe.runs import prompt_trial
from headprobe.runs.draw import draw_cases
from headprobe.runs.observation import Observation
from headprobe.runs.prefix_tree import PrefixTree
from headprobe.runs.prompt_trial import (
    LEAST_PROMPTS,
    MOST_PROMPTS,
    affordable,
    decide_style,
    draw_asked,
    spread_over_kinds,
)
from headprobe.tasks import TASKS

TASK = TASKS["r2"]
SPEC = CaseSpec(lengths=(300,), depths=(50.0,), limit=4)
TURN = "{{ messages[-1].content }}\n"


@pytest.fixture
def chat() -> LoadedModel:
    """The nano model, a chat template around it."""
    loaded = load_model("nano", device="cpu", dtype="float32")
    loaded.tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}{% endif %}"
    )
    return loaded


def decide(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, passes: dict[str, int], **how: Any
) -> tuple[PromptDecision, list[list[Case]]]:
    """A trial in which so many prompts of each style pass."""
    tried: list[list[Case]] = []

    def observe_cases(_: LoadedModel, cases: list[Case], task: Any) -> list[Observation]:
        assert task.measures == ()
        good = passes[TRIED[len(tried)]]
        tried.append(list(cases))
        return [
            Observation(
                case_id=case.case_id,
                generated_ids=(),
                step_start=0,
                step_end=0,
                response="",
                score=100.0 * (n < good),
                scores={},
            )
            for n, case in enumerate(cases)
        ]

    monkeypatch.setattr(prompt_trial, "observe_cases", observe_cases)
    drawn = draw_cases(loaded, TASK.probe, SPEC)
    options = {"prompt": PromptOptions(), "run_tokens": 10**6, "seed": 0} | how
    return decide_style(loaded, TASK, drawn, **options), tried


def test_the_style_that_passes_most_is_used(
    chat: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    decision, tried = decide(chat, monkeypatch, {"chat": 4, "prefix": 8, "shots": 12, "raw": 2})
    assert (decision.asked, decision.used, decision.prompts) == ("auto", "shots", 16)
    assert decision.passed == {"chat": 0.25, "prefix": 0.5, "shots": 0.75, "raw": 0.125}
    assert len(tried) == 4


def test_the_simplest_of_equals_is_used(chat: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    decision, _ = decide(chat, monkeypatch, {"chat": 3, "prefix": 5, "shots": 5, "raw": 5})
    assert decision.used == "prefix"
    decision, _ = decide(chat, monkeypatch, dict.fromkeys(TRIED, 0))
    assert decision.used == "chat"


def test_a_style_that_passes_everything_ends_the_trial(
    chat: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    decision, tried = decide(chat, monkeypatch, {"chat": 3, "prefix": 16})
    assert decision.used == "prefix"
    assert len(tried) == 2
    assert list(decision.passed) == ["chat", "prefix"]


@pytest.mark.slow
def test_the_trial_takes_a_twentieth_of_the_runs_tokens_but_a_few_prompts_in_any_case(
    chat: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    decision, tried = decide(chat, monkeypatch, dict.fromkeys(TRIED, 1), run_tokens=100_000)
    spent = sum(PrefixTree.of([case.input_ids for case in cases]).unique_tokens for cases in tried)
    assert LEAST_PROMPTS < decision.prompts < MOST_PROMPTS
    assert spent <= 0.05 * 100_000
    decision, _ = decide(chat, monkeypatch, dict.fromkeys(TRIED, 1), run_tokens=1)
    assert decision.prompts == LEAST_PROMPTS


def test_styles_that_do_not_fit_the_window_are_not_tried(
    chat: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = draw_cases(chat, TASK.probe, SPEC)
    narrow = replace(chat, max_context=40)
    with pytest.raises(UsageError, match="max context is too short to try prompts"):
        decide_style(narrow, TASK, drawn, prompt=PromptOptions(), run_tokens=10**6, seed=0)


@pytest.mark.slow
def test_the_model_itself_is_asked(chat: LoadedModel) -> None:
    drawn, decision = draw_asked(
        chat,
        TASK,
        lambda prompt: draw_cases(chat, TASK.probe, SPEC, prompt=prompt),
        prompt=PromptOptions(),
        plans=[],
        seed=0,
    )
    # What it was trained on is the same as raw, in a template that adds nothing.
    assert decision.used in TRIED
    assert max(decision.passed.values()) > 0.5
    assert drawn.plan.identity["prompt_style"] == decision.used


def test_needles_of_all_kinds_take_turns() -> None:
    def needle(kind: str, number: int) -> Needle:
        return Needle(text=f"{kind} {number}", question="?", answer="x", start=0, stop=1, kind=kind)

    needles = [needle(kind, n) for kind in "aab" for n in range(4)]
    order = spread_over_kinds(needles, 3)
    assert [one.kind for one in order[:8]] in (["a", "b"] * 4, ["b", "a"] * 4)
    assert sorted(map(id, order)) == sorted(map(id, needles))
    assert order == spread_over_kinds(needles, 3)
    assert order != spread_over_kinds(needles, 4)


def test_affordable_counts_shared_tokens_once(chat: LoadedModel) -> None:
    cases = draw_cases(chat, TASK.probe, replace(SPEC, limit=12)).cases
    all_of_them = PrefixTree.of([case.input_ids for case in cases]).unique_tokens
    assert affordable([cases], tokens=float(all_of_them)) == 12
    assert affordable([cases], tokens=all_of_them - 1.0) == 11
    assert affordable([cases], tokens=0.0) == LEAST_PROMPTS
    assert affordable([cases[:3]], tokens=0.0) == 3

"""Every command puts questions as it was decided once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from headprobe.ablation.plan import plan_ablation
from headprobe.ablation.rankings import HeadChoice
from headprobe.allocators import BudgetSize
from headprobe.evaluation.methods import MethodOptions
from headprobe.evaluation.plan import plan_evaluation
from headprobe.models.loading import LoadedModel, load_model
from headprobe.prompts.spec import CaseSpec
from headprobe.prompts.style import PromptDecision, PromptOptions
from headprobe.runs import plan as planning
from headprobe.runs import prompt_trial
from headprobe.runs.directory import CASES, RUN
from headprobe.runs.distributed import Processes
from headprobe.runs.plan import PlannedRun, prepare, prepare_decided
from headprobe.runs.score import score
from headprobe.scores import HeadScores
from headprobe.tasks import TASKS, Steps

AUTO = PromptOptions()
TASK = TASKS["r2"]
SPEC = CaseSpec(lengths=(300,), depths=(50.0,), limit=6)
FEWER = CaseSpec(lengths=(300,), depths=(50.0,), limit=4)
DECIDED = PromptDecision(
    asked="auto", used="prefix", passed={"chat": 0.5, "prefix": 1.0}, prompts=8
)


ONE = HeadChoice(top_k=(1,))


def methods(scores: Path) -> MethodOptions:
    return MethodOptions(budgets=(BudgetSize(tokens=32),), scores=scores)


@pytest.fixture
def chat() -> LoadedModel:
    loaded = load_model("nano", device="cpu", dtype="float32")
    loaded.tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}\n{% endfor %}"
        "{% if not add_generation_prompt %}{% endif %}"
    )
    return loaded


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Trials that decide on prefix; how many there were."""
    found: list[int] = []

    def decide(*_: Any, **how: Any) -> PromptDecision:
        found.append(how["run_tokens"])
        return DECIDED

    monkeypatch.setattr(planning, "decide_style", decide)
    monkeypatch.setattr(prompt_trial, "decide_style", decide)
    return found


def decided(loaded: LoadedModel, out: Path, **more: Any) -> PlannedRun:
    return prepare_decided(loaded, TASK, SPEC, prompt=AUTO, processes=Processes(), out=out, **more)


def test_a_resumed_run_takes_the_recorded_style_and_one_that_overwrites_tries_anew(
    chat: LoadedModel, trials: list[int], tmp_path: Path
) -> None:
    run = decided(chat, tmp_path)
    assert (run.prompt, len(trials)) == (DECIDED, 1)
    assert trials[0] == prepare(chat, TASK, SPEC, prompt=AUTO).cost.unique_tokens
    assert run.plan.identity["prompt_style"] == "prefix"
    score(chat, run)
    report = json.loads((tmp_path / RUN).read_text())
    assert report["prompt"] == {
        "asked": "auto",
        "used": "prefix",
        "passed": {"chat": 0.5, "prefix": 1.0},
        "prompts": 8,
    }
    again = decided(chat, tmp_path)
    assert (again.plan.differences(run.plan), len(trials)) == ([], 1)
    score(chat, again)
    decided(chat, tmp_path, overwrite=True)
    assert len(trials) == 2


def test_what_was_asked_for_needs_no_trial(
    chat: LoadedModel, trials: list[int], tmp_path: Path
) -> None:
    for style in ("raw", "chat", "prefix", "shots"):
        asked = PromptOptions(style=style)
        run = prepare_decided(chat, TASK, SPEC, prompt=asked, processes=Processes(), out=tmp_path)
        assert (run.plan.labels["prompt"], run.plan.identity["prompt_style"]) == (style, style)
    spec = CaseSpec(lengths=(257,))
    razor = prepare_decided(
        chat, TASKS["razor"], spec, prompt=AUTO, processes=Processes(), out=tmp_path
    )
    assert not {"prompt", "prompt_style"} & razor.plan.to_json().keys()
    assert not trials


def test_before_the_trial_a_plan_says_that_the_style_will_be_decided(chat: LoadedModel) -> None:
    run = prepare(chat, TASK, SPEC, prompt=AUTO)
    assert run.prompt.used is None
    assert "decided when the run starts" in run.summary
    with pytest.raises(ValueError, match="expected a run whose prompt style is decided"):
        score(chat, run)
    plain = load_model("nano", device="cpu", dtype="float32", weights=False)
    assert prepare(plain, TASK, SPEC).summary.endswith("; prompt raw")


def test_evaluate_and_ablate_put_questions_as_the_run_did(
    chat: LoadedModel, trials: list[int], tmp_path: Path
) -> None:
    run = decided(chat, tmp_path / "run")
    scores = score(chat, run)
    assert scores is not None
    evaluation = plan_evaluation(chat, methods(tmp_path / "run"), FEWER, out=tmp_path / "e")
    ablation = plan_ablation(chat, [("run", scores)], ONE, FEWER, out=tmp_path / "a")
    assert (
        evaluation.plan.identity["prompt_style"]
        == ablation.plan.identity["prompt_style"]
        == "prefix"
    )
    assert len(trials) == 1
    tail = run.cases[0].input_ids[-4:]
    assert all(question.question_ids[-4:] == tail for question in evaluation.questions)
    assert all(case.input_ids[-4:] == tail for case in ablation.cases)
    assert {question.max_new_tokens for question in evaluation.questions} >= {
        run.task.probe.max_new_tokens(case) for case in ablation.cases[:1]
    }


def test_without_a_run_that_says_evaluate_and_ablate_try_themselves(
    chat: LoadedModel, trials: list[int], tmp_path: Path
) -> None:
    plain = load_model("nano", device="cpu", dtype="float32")
    scores = score(plain, prepare(plain, TASK, SPEC, out=tmp_path / "run"))
    assert isinstance(scores, HeadScores)
    evaluation = plan_evaluation(chat, methods(tmp_path / "run"), FEWER, out=tmp_path / "e")
    assert (evaluation.plan.identity["prompt_style"], len(trials)) == ("prefix", 1)
    ablation = plan_ablation(chat, [("run", scores)], ONE, FEWER, out=tmp_path / "a")
    assert (ablation.plan.identity["prompt_style"], len(trials)) == ("prefix", 2)


def test_questions_of_ones_own_are_put_as_the_run_did_or_with_the_prefix(
    chat: LoadedModel, trials: list[int], tmp_path: Path
) -> None:
    plain = load_model("nano", device="cpu", dtype="float32")
    score(plain, prepare(plain, TASK, SPEC, out=tmp_path / "run"))
    row = {"context": "Noah likes kites.", "question": "What does Noah like?", "answers": "kites"}
    (tmp_path / "own.jsonl").write_text(json.dumps(row), encoding="utf-8")

    def style(loaded: LoadedModel) -> str:
        planned = plan_evaluation(
            loaded,
            methods(tmp_path / "run"),
            CaseSpec(),
            questions=tmp_path / "own.jsonl",
            out=tmp_path / "e",
        )
        return str(planned.plan.identity["prompt_style"])

    assert (style(plain), style(chat)) == ("raw", "prefix")
    assert not trials


def test_aligned_steps_are_the_reference_where_the_answer_stands_alone(tmp_path: Path) -> None:
    nano = load_model("nano", device="cpu", dtype="float32")
    ways = {}
    steps: Steps
    for steps in ("aligned", "reference"):
        run = prepare(nano, TASK.counting(steps), SPEC, out=tmp_path / steps)
        ways[steps] = score(nano, run), pd.read_parquet(run.out / CASES)
    (one, cases), (other, capped) = ways["aligned"], ways["reference"]
    assert one is not None
    assert other is not None
    assert one.passed == other.passed > 3
    # Draft and prompt are run in pieces of one token more.
    assert abs(one.per_case["r2"] - other.per_case["r2"]).max() < 1e-6
    assert (cases["step_start"] == 0).all()
    assert (cases["step_end"] == capped["step_end"]).all()
    assert (capped["step_end"] == capped["answer_ids"].map(len)).all()
    assert (cases["generated_ids"].map(len) > capped["generated_ids"].map(len)).all()

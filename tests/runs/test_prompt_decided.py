"""Every command puts questions as it was decided once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from headprobe.ablation.run import plan_ablation
from headprobe.evaluation.plan import plan_evaluation
from headprobe.models.loading import LoadedModel, load_model
from headprobe.prompts.style import PromptDecision, PromptOptions
from headprobe.runs import plan as planning
from headprobe.runs import prompt_trial
from headprobe.runs.directory import CASES, RUN
from headprobe.runs.distributed import Processes
from headprobe.runs.plan import PlannedRun, prepare
from headprobe.runs.score import prepare_decided, score
from headprobe.scores import HeadScores

AUTO = PromptOptions()
HOW: dict[str, Any] = {"task": "r2", "lengths": "300", "depths": "50", "limit": 6}
DECIDED = PromptDecision(
    asked="auto", used="prefix", passed={"chat": 0.5, "prefix": 1.0}, prompts=8
)


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
    return prepare_decided(loaded, prompt=AUTO, processes=Processes(), out=out, **HOW | more)


def test_a_resumed_run_takes_the_recorded_style_and_a_fresh_one_tries_anew(
    chat: LoadedModel, trials: list[int], tmp_path: Path
) -> None:
    run = decided(chat, tmp_path)
    assert (run.prompt, len(trials)) == (DECIDED, 1)
    assert trials[0] == prepare(chat, prompt=AUTO, **HOW).cost.unique_tokens
    assert run.plan["prompt_style"] == "prefix"
    score(chat, run)
    report = json.loads((tmp_path / RUN).read_text())
    assert report["prompt"] == {
        "asked": "auto",
        "used": "prefix",
        "passed": {"chat": 0.5, "prefix": 1.0},
        "prompts": 8,
    }
    again = decided(chat, tmp_path)
    assert (again.plan, len(trials)) == (run.plan, 1)
    score(chat, again)
    decided(chat, tmp_path, overwrite=True)
    assert len(trials) == 2


def test_what_was_asked_for_needs_no_trial(
    chat: LoadedModel, trials: list[int], tmp_path: Path
) -> None:
    for style in ("raw", "chat", "prefix", "shots"):
        asked = PromptOptions(style=style)
        run = prepare_decided(chat, prompt=asked, processes=Processes(), out=tmp_path, **HOW)
        assert (run.plan["prompt"], run.plan["prompt_style"]) == (style, style)
    razor = prepare_decided(
        chat, prompt=AUTO, processes=Processes(), out=tmp_path, task="razor", lengths="257"
    )
    assert "prompt" not in razor.plan
    assert not trials


def test_before_the_trial_a_plan_says_that_the_style_will_be_decided(chat: LoadedModel) -> None:
    run = prepare(chat, prompt=AUTO, **HOW)
    assert run.prompt.used is None
    assert "decided when the run starts" in run.summary
    with pytest.raises(ValueError, match="expected a run whose prompt style is decided"):
        score(chat, run)
    plain = load_model("nano", device="cpu", dtype="float32", weights=False)
    assert prepare(plain, **HOW).summary.endswith("; prompt raw")


def test_evaluate_and_ablate_put_questions_as_the_run_did(
    chat: LoadedModel, trials: list[int], tmp_path: Path
) -> None:
    run = decided(chat, tmp_path / "run")
    scores = score(chat, run)
    assert scores is not None
    own = {"lengths": "300", "depths": "50"}
    evaluation = plan_evaluation(
        chat, budgets=["32"], scores=tmp_path / "run", limit=4, drawing=own, out=tmp_path / "e"
    )
    ablation = plan_ablation(chat, [("run", scores)], top_k="1", limit=4, out=tmp_path / "a", **own)
    assert evaluation.plan["prompt_style"] == ablation.plan["prompt_style"] == "prefix"
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
    scores = score(plain, prepare(plain, out=tmp_path / "run", **HOW))
    assert isinstance(scores, HeadScores)
    own = {"lengths": "300", "depths": "50"}
    evaluation = plan_evaluation(
        chat, budgets=["32"], scores=tmp_path / "run", limit=4, drawing=own, out=tmp_path / "e"
    )
    assert (evaluation.plan["prompt_style"], len(trials)) == ("prefix", 1)
    ablation = plan_ablation(chat, [("run", scores)], top_k="1", limit=4, out=tmp_path / "a", **own)
    assert (ablation.plan["prompt_style"], len(trials)) == ("prefix", 2)


def test_questions_of_ones_own_are_put_as_the_run_did_or_with_the_prefix(
    chat: LoadedModel, trials: list[int], tmp_path: Path
) -> None:
    plain = load_model("nano", device="cpu", dtype="float32")
    score(plain, prepare(plain, out=tmp_path / "run", **HOW))
    row = {"context": "Noah likes kites.", "question": "What does Noah like?", "answers": "kites"}
    (tmp_path / "own.jsonl").write_text(json.dumps(row), encoding="utf-8")
    own: dict[str, Any] = {
        "budgets": ["16"],
        "scores": tmp_path / "run",
        "cases": tmp_path / "own.jsonl",
        "out": tmp_path / "e",
    }
    assert plan_evaluation(plain, **own).plan["prompt_style"] == "raw"
    assert plan_evaluation(chat, **own).plan["prompt_style"] == "prefix"
    assert not trials


def test_aligned_steps_are_the_reference_where_the_answer_stands_alone(tmp_path: Path) -> None:
    nano = load_model("nano", device="cpu", dtype="float32")
    ways = {}
    for steps in ("aligned", "reference"):
        run = prepare(nano, out=tmp_path / steps, steps=steps, **HOW)
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

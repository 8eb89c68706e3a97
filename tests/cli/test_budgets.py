"""How a budget reads in the terminal, and when it is more than any context has."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headprobe.budgets import HeadBudgets
from headprobe.cli.budgets import evaluating, summarise, warn_if_whole
from headprobe.models.layout import HeadLayout
from headprobe.scores import HeadScores

LAYOUT = HeadLayout(
    id="lab/model", architecture="llama", layers=2, num_heads=4, num_kv_heads=2, head_dim=8
)


def budgets(tokens: int, *, model: str = LAYOUT.id, **strategy: Any) -> HeadBudgets:
    return HeadBudgets(
        layout=replace(LAYOUT, id=model),
        strategy={"name": "razor", **strategy},
        granularity="kv",
        window=8,
        sinks=4,
        compensation=False,
        selection=np.full((2, 2), "streaming"),
        tokens=np.full((2, 2), tokens),
        ratio=np.array([[1.0, 0.0], [0.0, 0.0]]),
    )


def scores(**plan: Any) -> HeadScores:
    return HeadScores(
        layout=LAYOUT,
        task="r2",
        per_case={"r2": np.ones((1, 2, 4))},
        needles=(0,),
        cases=1,
        plan=plan,
    )


@pytest.mark.parametrize(
    ("budget", "told"),
    [
        (budgets(2112, model="nano", recent=2108), "2,112 tokens that the model takes; give a s"),
        (budgets(2111, model="nano", recent=2107), None),
        (budgets(900, budget=900), "900 tokens that the run's longest prompt has; give a smaller"),
        (budgets(900, budget=900), "--budget"),
        (budgets(899, budget=899), None),
        # What asks for no amount has none to lower.
        (budgets(5000), None),
        (replace(budgets(8, budget="100%"), ratio=np.ones((2, 2))), None),
    ],
)
def test_a_budget_that_keeps_everything_of_the_longest_context_is_told(
    budget: HeadBudgets, told: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    warn_if_whole(budget, [scores(lengths=[300, 900]), scores(lengths=[300])])
    written = capsys.readouterr().err
    assert told in written if told else not written
    assert len(written.splitlines()) == (1 if told else 0)


def test_runs_without_prompts_tell_no_longest_context(capsys: pytest.CaptureFixture[str]) -> None:
    warn_if_whole(budgets(5000, recent=4996), [scores()])
    assert not capsys.readouterr().err


def test_the_next_command_names_a_model_that_is_not_the_default() -> None:
    assert evaluating(Path("b.json"), budgets(8, model="nano")) == (
        "headprobe evaluate --budget b.json"
    )
    assert evaluating(Path("b.json"), budgets(8, model="meta/Llama")) == (
        "headprobe evaluate --model meta/Llama --budget b.json"
    )


def test_bytes_are_told_beside_those_of_the_full_cache(capsys: pytest.CaptureFixture[str]) -> None:
    summarise(replace(budgets(64), ratio=np.zeros((2, 2))))
    shown = " ".join(capsys.readouterr().out.split())
    # Two layers of two KV heads: a key and a value of head_dim numbers of 2 bytes an entry.
    entry = 2 * LAYOUT.head_dim * 2 * LAYOUT.layers * LAYOUT.num_kv_heads
    assert f"{64 * entry // 1024} KiB of {4096 * entry // 1024} KiB" in shown


@pytest.mark.parametrize(("strategy", "title"), [({}, "razor"), ({"budget": 64}, "razor 64")])
def test_the_title_names_the_strategy_and_its_budget_if_it_has_one(
    strategy: dict[str, Any], title: str, capsys: pytest.CaptureFixture[str]
) -> None:
    summarise(budgets(64, **strategy))
    assert f"lab/model, {title}: fraction of" in " ".join(capsys.readouterr().out.split())

import inspect
import json
import sys
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import numpy as np
import pytest

import headprobe.allocators
from headprobe.allocators import (
    STRATEGIES,
    Budget,
    allocate,
    get_strategy,
    parse_budget,
    strategy_names,
)
from headprobe.budgets import HeadBudgets
from headprobe.errors import HeadprobeError, UsageError
from headprobe.layout import HeadLayout

LAYOUT = HeadLayout(
    id="tiny", architecture="LlamaForCausalLM", layers=3, heads=8, kv_heads=2, head_dim=8
)
SCORES = np.random.default_rng(0).random((3, 8)).astype(np.float32)


@pytest.mark.parametrize("granularity", ["kv", "query"])
@pytest.mark.parametrize(
    ("budget", "context_length"),
    [("32", None), ("32", 20), ("32", 40), ("10%", None), ("10%", 1000)],
)
@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_keeps_the_promises_of_a_budget(
    name: str, granularity: str, budget: str, context_length: int | None, tmp_path: Path
) -> None:
    budgets = allocate(
        SCORES,
        LAYOUT,
        strategy=name,
        budget=parse_budget(budget),
        granularity=granularity,
        context_length=context_length,
    )
    heads = 3 * (2 if granularity == "kv" else 8)
    length = context_length or 1000
    asked = heads * (min(32, length) if budget == "32" else length // 10)
    kept = budgets.kept(length)
    assert kept.size == heads
    # Ratios are rounded up a head when the context is known at last.
    assert 0 <= kept.sum() - asked <= (heads if budgets.ratio.any() else 0)
    assert (kept >= 8).all()
    assert (kept <= length).all()
    assert set(budgets.selection.ravel()) == {"attention"}
    budgets.save(tmp_path / "budget.json")
    assert HeadBudgets.load(tmp_path / "budget.json").to_json() == budgets.to_json()


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_records_every_option_it_takes(name: str) -> None:
    budgets = allocate(SCORES, LAYOUT, strategy=name, budget=Budget(share=0.015))
    taken = set(inspect.signature(STRATEGIES[name]).parameters) - {"scores", "group", "window"}
    assert set(budgets.strategy) == {"name"} | taken
    assert budgets.strategy["name"] == name
    assert budgets.strategy["budget"] == "1.5%"
    json.dumps(budgets.strategy)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_says_what_it_is(name: str) -> None:
    assert STRATEGIES[name].__doc__
    assert "arXiv" in (sys.modules[STRATEGIES[name].__module__].__doc__ or "")


def test_defaults_and_given_options_are_recorded() -> None:
    budgets = allocate(SCORES, LAYOUT, budget=Budget(tokens=128), beta=None, reduce="max")
    assert budgets.strategy == {
        "name": "headkv",
        "budget": 128,
        "beta": 1.2,
        "reduce": "max",
        "rounding": "exact",
        "context_length": None,
    }
    assert (budgets.granularity, budgets.window, budgets.sinks) == ("kv", 8, 0)
    assert (
        allocate(SCORES, LAYOUT, strategy="pyramid", budget=Budget(tokens=128)).strategy["beta"]
        == 20
    )


def test_wrong_usage_says_what_is_possible() -> None:
    budget = Budget(tokens=128)
    with pytest.raises(
        UsageError, match="no strategy 'snap'; choose from headkv, pyramid, uniform"
    ):
        allocate(SCORES, LAYOUT, strategy="snap", budget=budget)
    with pytest.raises(UsageError, match="uniform takes no --beta; it takes --budget, --context-l"):
        allocate(SCORES, LAYOUT, strategy="uniform", budget=budget, beta=1.2)
    with pytest.raises(UsageError, match="headkv needs --budget"):
        allocate(SCORES, LAYOUT)
    with pytest.raises(UsageError, match="--granularity takes kv or query, got 'layer'"):
        allocate(SCORES, LAYOUT, budget=budget, granularity="layer")
    with pytest.raises(UsageError, match="--window must be 0 or more, got -1"):
        allocate(SCORES, LAYOUT, budget=budget, window=-1)
    with pytest.raises(ValueError, match=r"shape \(3, 8\), got \(8, 3\)"):
        allocate(SCORES.T, LAYOUT, budget=budget)


def test_other_packages_add_strategies_and_cannot_replace_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = "headprobe.strategies"
    ours = "headprobe.allocators.uniform:uniform"
    installed = EntryPoints(
        [
            EntryPoint("flat", ours, group),
            EntryPoint("headkv", ours, group),
            EntryPoint("broken", "headprobe.allocators.uniform:nothing", group),
        ]
    )
    monkeypatch.setattr(headprobe.allocators, "entry_points", installed.select)
    assert strategy_names() == ["broken", "flat", "headkv", "pyramid", "uniform"]
    assert get_strategy("flat") is STRATEGIES["uniform"]
    assert get_strategy("headkv") is STRATEGIES["headkv"]
    with pytest.raises(HeadprobeError, match="cannot load strategy 'broken' from"):
        get_strategy("broken")

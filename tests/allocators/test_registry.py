import inspect
import json
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from headprobe.allocators import (
    STRATEGIES,
    BudgetSize,
    Strategy,
    allocate,
    get_strategy,
    parse_budget,
    strategy_names,
)
from headprobe.allocators._allocation import Allocation
from headprobe.budgets import HeadBudgets
from headprobe.errors import HeadprobeError, UsageError
from headprobe.models.layout import HeadLayout
from headprobe.scores.utility import FRACTIONS, UtilityCurves
from tests._support.refusals import refused


def options_of(function: Callable[..., Allocation]) -> set[str]:
    names = set(inspect.signature(function).parameters)
    return names - {"scores", "group", "window", "measured", "curves"}


LAYOUT = HeadLayout(
    id="tiny", architecture="LlamaForCausalLM", layers=3, num_heads=8, num_kv_heads=2, head_dim=8
)
SCORES = np.random.default_rng(0).random((3, 8)).astype(np.float32)
MEASURED = {"induction": SCORES, "echo": SCORES[::-1].copy()}
NEEDED: dict[str, dict[str, object]] = {"top": {"top_k": 2}}
CURVES = UtilityCurves.of(
    [np.random.default_rng(1).random((2, 3, 2, len(FRACTIONS))).astype(np.float16) / 200], [1000]
)
DIVIDING = [name for name, one in STRATEGIES.items() if "budget" in options_of(one.allocate)]
CHOOSING = [name for name, one in STRATEGIES.items() if "sinks" in options_of(one.allocate)]


@pytest.mark.parametrize("granularity", ["kv", "query"])
@pytest.mark.parametrize(
    ("budget", "context_length"),
    [("32", None), ("32", 20), ("32", 40), ("10%", None), ("10%", 1000)],
)
@pytest.mark.parametrize("name", DIVIDING)
def test_every_strategy_that_divides_a_budget_keeps_to_it(
    name: str, granularity: str, budget: str, context_length: int | None, tmp_path: Path
) -> None:
    if STRATEGIES[name].reads_curves and granularity == "query":
        pytest.skip("its curves are of KV heads")
    budgets = allocate(
        SCORES,
        LAYOUT,
        strategy=name,
        budget=parse_budget(budget),
        granularity=granularity,
        context_length=context_length,
        curves=CURVES,
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


@pytest.mark.parametrize("granularity", ["kv", "query"])
@pytest.mark.parametrize("name", CHOOSING)
def test_every_strategy_that_chooses_heads_keeps_all_of_them_and_a_window_of_the_others(
    name: str, granularity: str, tmp_path: Path
) -> None:
    budgets = allocate(
        SCORES,
        LAYOUT,
        strategy=name,
        granularity=granularity,
        measured=MEASURED,
        sinks=3,
        recent=20,
        **NEEDED.get(name, {}),
    )
    full = budgets.ratio == 1
    assert full.any()
    assert set(budgets.selection.ravel()) == {"streaming"}
    assert budgets.sinks == 3
    assert budgets.compensation == (name == "razor")
    for length in (5, 23, 24, 10_000):
        others = max(23, length // 5) if name == "razor" else 23
        assert (budgets.kept(length) == np.where(full, length, min(length, others))).all()
    budgets.save(tmp_path / "budget.json")
    assert HeadBudgets.load(tmp_path / "budget.json").to_json() == budgets.to_json()


@pytest.mark.parametrize("name", CHOOSING)
@given(
    scores=arrays(np.float32, (3, 8), elements=st.floats(0, 1, width=32), unique=True),
    seed=st.integers(0, 99),
)
def test_chosen_heads_are_the_best_whatever_their_order(
    name: str, scores: np.ndarray, seed: int
) -> None:
    def full(matrix: np.ndarray) -> np.ndarray:
        budgets = allocate(
            matrix,
            LAYOUT,
            strategy=name,
            measured={"induction": matrix, "echo": matrix},
            **NEEDED.get(name, {}) | ({"threshold": 0.001} if name == "threshold" else {}),
        )
        return (budgets.ratio == 1).ravel()

    if scores.max() <= 0.001:
        return
    heads = scores.reshape(-1, 4).max(axis=1)
    chosen = full(scores)
    assert not chosen.all() or name in ("threshold", "duo")
    if not chosen.all():
        assert heads[chosen].min() > heads[~chosen].max()
    order = np.random.default_rng(seed).permutation(6)
    mixed = scores.reshape(6, 4)[order].reshape(3, 8)
    assert full(mixed).tolist() == chosen[order].tolist()


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_records_every_option_it_takes(name: str) -> None:
    options = {"budget": BudgetSize(fraction=0.015)} if name in DIVIDING else NEEDED.get(name, {})
    budgets = allocate(SCORES, LAYOUT, strategy=name, measured=MEASURED, curves=CURVES, **options)
    assert set(budgets.strategy) == {"name"} | options_of(STRATEGIES[name].allocate)
    assert budgets.strategy["name"] == name
    assert budgets.strategy.get("budget", "1.5%") == "1.5%"
    json.dumps(budgets.strategy)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_says_what_it_is(name: str) -> None:
    assert STRATEGIES[name].summary
    assert "arXiv" in (sys.modules[STRATEGIES[name].allocate.__module__].__doc__ or "")


def test_defaults_and_given_options_are_recorded() -> None:
    budgets = allocate(SCORES, LAYOUT, budget=BudgetSize(tokens=128), beta=None, reduce="max")
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
        allocate(SCORES, LAYOUT, strategy="pyramid", budget=BudgetSize(tokens=128)).strategy["beta"]
        == 20
    )


def test_wrong_usage_says_what_is_possible() -> None:
    budget = BudgetSize(tokens=128)
    with pytest.raises(
        UsageError, match="no strategy 'snap'; choose from alibi, duo, headkv, pyramid, razor"
    ):
        allocate(SCORES, LAYOUT, strategy="snap", budget=budget)
    with refused("strategy uniform .* `budget`, `context_l", option="beta"):
        allocate(SCORES, LAYOUT, strategy="uniform", budget=budget, beta=1.2)
    with refused("strategy top needs it", option="top_k"):
        allocate(SCORES, LAYOUT, strategy="top")
    with refused("strategy duo .* `sparsity`, `sinks`", option="budget"):
        allocate(SCORES, LAYOUT, strategy="duo", budget=budget)
    with refused("kv or query", option="granularity", value="layer"):
        allocate(SCORES, LAYOUT, budget=budget, granularity="layer")
    with refused(option="window", value=-1):
        allocate(SCORES, LAYOUT, budget=budget, window=-1)
    with pytest.raises(ValueError, match=r"shape \(3, 8\), got \(8, 3\)"):
        allocate(SCORES.T, LAYOUT, budget=budget)
    with pytest.raises(ValueError, match=r"shape \(3, 8\), got \(8, 3\)"):
        allocate(SCORES, LAYOUT, strategy="razor", measured=MEASURED | {"echo": SCORES.T})


def test_without_a_budget_a_head_gets_128_entries() -> None:
    budgets = allocate(SCORES, LAYOUT)
    assert budgets.strategy["budget"] == 128
    assert budgets.tokens.mean() == 128


def test_other_packages_add_strategies_and_cannot_replace_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = "headprobe.strategies"
    flat = Strategy(summary="flat", allocate=STRATEGIES["uniform"].allocate)
    module = sys.modules["headprobe.allocators.uniform"]
    monkeypatch.setattr(module, "FLAT", flat, raising=False)
    ours = "headprobe.allocators.uniform:FLAT"
    installed = EntryPoints(
        [
            EntryPoint("flat", ours, group),
            EntryPoint("headkv", ours, group),
            EntryPoint("broken", "headprobe.allocators.uniform:nothing", group),
        ]
    )
    monkeypatch.setattr("headprobe.registry.entry_points", installed.select)
    assert strategy_names() == [*STRATEGIES, "broken", "flat"]
    assert get_strategy("flat") is flat
    assert get_strategy("headkv") is STRATEGIES["headkv"]
    with pytest.raises(HeadprobeError, match="cannot load strategy 'broken' from"):
        get_strategy("broken")

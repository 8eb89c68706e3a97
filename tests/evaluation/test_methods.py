from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headprobe.allocators import BudgetSize, allocate
from headprobe.allocators.mixing import WeightedRun
from headprobe.budgets import HeadBudgets
from headprobe.errors import UsageError
from headprobe.evaluation.baselines import BASELINES, SINKS, baselines, shuffle, with_baselines
from headprobe.evaluation.methods import (
    CutPoint,
    Method,
    MethodOptions,
    allocated,
    build_methods,
    check_fit,
    fixed,
    parse_budgets,
)
from headprobe.models.layout import HeadLayout
from headprobe.scores import HeadScores

LAYOUT = HeadLayout(
    id="tiny", architecture="LlamaForCausalLM", layers=3, num_heads=8, num_kv_heads=4, head_dim=8
)
OTHER = HeadLayout(
    id="other", architecture="LlamaForCausalLM", layers=3, num_heads=8, num_kv_heads=2, head_dim=8
)
SCORES = np.random.default_rng(0).lognormal(0, 2, (3, 8)).astype(np.float32)


def run() -> WeightedRun:
    scores = HeadScores(
        layout=LAYOUT, task="r2", per_case={"r2": SCORES[None]}, needles=(0,), cases=1
    )
    return WeightedRun(name="run", scores=scores)


def budgets(strategy: str, layout: HeadLayout = LAYOUT, **options: Any) -> HeadBudgets:
    measured = {"induction": SCORES, "echo": SCORES}
    return allocate(SCORES, layout, strategy=strategy, measured=measured, **options)


def cut_point(tokens: int, question_id: int = 0, capacity: Sequence[int] | None = None) -> CutPoint:
    """With all tokens in every layer, unless there is less room."""
    capacities = np.full(LAYOUT.layers, tokens) if capacity is None else np.array(capacity)
    return CutPoint(tokens=tokens, question_id=question_id, capacity=capacities)


def candidates() -> list[Method]:
    """By tokens, by share, some heads full, with compensation, a budget for query heads."""
    return [
        allocated([run()], BudgetSize(tokens=20)),
        allocated([run()], BudgetSize(fraction=0.1)),
        fixed("duo", "a", budgets("duo", sinks=2, recent=10)),
        fixed("razor", "b", budgets("razor", recent=20)),
        fixed("headkv", "c", budgets("headkv", budget=BudgetSize(tokens=12), granularity="query")),
    ]


@pytest.mark.parametrize("candidate", candidates(), ids=lambda candidate: candidate.strategy)
@pytest.mark.parametrize("tokens", [100, 333, 1000])
def test_baselines_keep_as_many_entries_as_the_candidate(candidate: Method, tokens: int) -> None:
    own = candidate.at(cut_point(tokens))
    for baseline in baselines(candidate, seed=0):
        other = baseline.at(cut_point(tokens))
        assert other.footprint(tokens).tokens == own.footprint(tokens).tokens
        assert other.granularity == own.granularity
        assert baseline.is_baseline
        assert baseline.budget == candidate.budget


def test_each_baseline_chooses_in_its_own_way() -> None:
    candidate = allocated([run()], BudgetSize(tokens=20))
    found = {one.strategy: one for one in baselines(candidate, seed=0)}
    assert tuple(found) == BASELINES
    uniform, pyramid, adaptive, streaming, defensive, kvzip, kvzip_global, shuffled = (
        one.at(cut_point(500, 7)) for one in found.values()
    )
    for one in (defensive, kvzip, kvzip_global):
        np.testing.assert_array_equal(one.tokens, uniform.tokens)
    assert (defensive.selection == "defensive").all()
    assert (kvzip.selection == "reconstruct").all()
    assert (kvzip_global.selection == "reconstruct").all()
    for name, one in found.items():
        assert set(one.at(cut_point(500, 7)).selection.ravel()) == set(one.selections), name
    assert (uniform.tokens == 20).all()
    assert (np.diff(pyramid.tokens[:, 0]) < 0).all()
    np.testing.assert_array_equal(adaptive.tokens, uniform.tokens)
    shared = {name: (one.floor, one.across) for name, one in found.items() if one.floor is not None}
    assert shared == {"adaptive": (0.2, "layer"), "kvzip_global": (0.0, "model")}
    assert (streaming.selection == "streaming").all()
    assert streaming.sinks == SINKS
    own = candidate.at(cut_point(500, 7)).tokens
    assert (shuffled.tokens != own).any()
    np.testing.assert_array_equal(np.sort(shuffled.tokens.ravel()), np.sort(own.ravel()))


def test_shuffled_budgets_are_those_of_shuffled_scores() -> None:
    groups = SCORES.reshape(-1, LAYOUT.group_size)
    order = np.random.default_rng(5).permutation(len(groups))
    own = budgets("headkv", budget=BudgetSize(tokens=50))
    shuffled = allocate(
        groups[order].reshape(SCORES.shape), LAYOUT, strategy="headkv", budget=BudgetSize(tokens=50)
    )
    np.testing.assert_array_equal(
        shuffle(own, capacity=np.full(3, 999), seed=5).tokens, shuffled.tokens
    )


def test_every_question_shuffles_anew_and_the_same_with_the_same_seed() -> None:
    candidate = allocated([run()], BudgetSize(tokens=20))
    one, same, other = (baselines(candidate, seed=seed)[-1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(
        one.at(cut_point(500, 3)).tokens, same.at(cut_point(500, 3)).tokens
    )
    assert (one.at(cut_point(500, 3)).tokens != one.at(cut_point(500, 4)).tokens).any()
    assert (one.at(cut_point(500, 3)).tokens != other.at(cut_point(500, 3)).tokens).any()


def test_what_a_context_is_too_short_for_goes_to_other_heads() -> None:
    candidate = allocated([run()], BudgetSize(tokens=100))
    kept = candidate.at(cut_point(150)).kept(150)
    assert kept.max() == 150
    assert kept.sum() == 100 * kept.size


def test_a_share_too_small_for_the_window_is_one_entry_more_than_it() -> None:
    candidate = allocated([run()], BudgetSize(fraction=0.01), window=8)
    for one in (candidate, *baselines(candidate, seed=0)):
        assert one.at(cut_point(200)).kept(200).sum() == 9 * 12


def options(typed: list[str], *strategies: str) -> MethodOptions:
    return MethodOptions(budgets=parse_budgets(typed), strategies=strategies)


def test_budgets_are_read_as_typed(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    budgets("duo").save(path)
    typed = ["16,1.5%", str(path), "64"]
    methods = build_methods(options(typed, "headkv", "pyramid"), [run()])
    assert [(one.strategy, one.budget) for one in methods] == [
        ("headkv", "16"),
        ("pyramid", "16"),
        ("headkv", "1.5%"),
        ("pyramid", "1.5%"),
        ("duo", "own"),
        ("headkv", "64"),
        ("pyramid", "64"),
    ]
    np.testing.assert_array_equal(methods[4].at(cut_point(99)).ratio, budgets("duo").ratio)
    everyone = with_baselines(methods, seed=0)
    # A baseline that entered is not there twice, and those of a budget stand after it.
    names = [one.strategy for one in everyone if one.budget == "16"]
    behind = ["uniform", "adaptive", "streaming", "defensive", "kvzip", "kvzip_global", "shuffled"]
    assert names == ["headkv", "pyramid", *behind]
    assert [one.budget for one in everyone] == [
        name for name in ("16", "1.5%", "own", "64") for _ in range(9)
    ]


def test_every_strategy_meets_every_selection(tmp_path: Path) -> None:
    """A file keeps its own unless others are asked for; a baseline that entered is not twice."""
    path = tmp_path / "own.json"
    budgets("headkv", budget=BudgetSize(tokens=20), selection="value").save(path)
    budgets("duo").save(tmp_path / "duo.json")
    typed, streams = (
        parse_budgets(names) for names in (["16", str(path)], [str(tmp_path / "duo.json")])
    )
    both = MethodOptions(
        budgets=typed, strategies=("headkv", "uniform"), selections=("attention", "defensive")
    )
    methods = build_methods(both, [run()])
    assert [(one.strategy, one.selection, one.budget) for one in methods] == [
        ("headkv", "attention", "16"),
        ("headkv", "defensive", "16"),
        ("uniform", "attention", "16"),
        ("uniform", "defensive", "16"),
        ("headkv", "attention", "own"),
        ("headkv", "defensive", "own"),
    ]
    for one in methods:
        assert set(one.at(cut_point(99)).selection.ravel()) == {one.selection}
    same = methods[0].at(cut_point(99)), methods[1].at(cut_point(99))
    np.testing.assert_array_equal(same[0].tokens, same[1].tokens)
    [alone, duo] = build_methods(MethodOptions(budgets=typed[1:] + streams), [])
    assert (alone.selection, duo.selection) == ("value", "streaming")
    names = [one.strategy for one in with_baselines(methods, seed=0) if one.budget == "16"]
    own = ["headkv", "headkv", "uniform", "uniform"]
    assert names == [*own, "pyramid", "adaptive", "streaming", "kvzip", "kvzip_global", "shuffled"]
    left = with_baselines(methods, seed=0, without=["kvzip"])
    assert "kvzip" not in {one.strategy for one in left}


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    files = [tmp_path / folder / "16.json" for folder in ("a", "b")]
    for file, size in zip(files, (12, 40), strict=True):
        file.parent.mkdir()
        budgets("headkv", budget=BudgetSize(tokens=size)).save(file)
    typed = [*map(str, files), "16"]
    everyone = with_baselines(build_methods(options(typed), [run()]), seed=0)
    kept = {(one.strategy, one.budget): one.at(cut_point(500)).kept(500).mean() for one in everyone}
    for name in ("headkv", "uniform", "shuffled"):
        assert [kept[name, budget] for budget in typed] == [12, 40, 16]
    alone = build_methods(options([str(files[0]), "16"]), [run()])
    assert [one.budget for one in alone] == [str(files[0]), "16"]


@pytest.mark.parametrize("candidate", candidates(), ids=lambda candidate: candidate.strategy)
def test_baselines_keep_as_much_where_layers_have_less_room(candidate: Method) -> None:
    capacity = [300, 0, 24]
    own = candidate.at(cut_point(300, capacity=capacity))
    held = np.stack([own.kept(most)[layer] for layer, most in enumerate(capacity)])
    total = held.sum() + own.compensation * (held < np.array(capacity)[:, None]).sum()
    for baseline in baselines(candidate, seed=0):
        other = baseline.at(cut_point(300, capacity=capacity))
        kept = other.kept(300)
        assert (kept <= np.array(capacity)[:, None]).all()
        more = other.compensation * (kept < np.array(capacity)[:, None]).sum()
        assert kept.sum() + more == total


def test_a_context_within_the_window_is_kept_whole() -> None:
    for budget in (BudgetSize(tokens=20), BudgetSize(fraction=0.1)):
        candidate = allocated([run()], budget)
        for one in (candidate, *baselines(candidate, seed=0)):
            assert (one.at(cut_point(5)).kept(5) == 5).all()


def test_baselines_of_less_than_the_window_keep_no_more() -> None:
    few = budgets("headkv", budget=BudgetSize(tokens=20))
    for size in (4, 0):
        small = replace(few, tokens=np.full_like(few.tokens, size))
        for one in baselines(fixed("own", "a", small), seed=0):
            assert one.at(cut_point(128)).kept(128).sum() == small.tokens.sum()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["16,x"], "tokens a head"),
        (["16", "16"], "budget=16: given twice for headkv"),
        (["none.json"], "no budget file at none.json"),
    ],
)
def test_what_is_no_budget_is_refused(typed: list[str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        build_methods(options(typed), [run()])
    assert message in str(raised.value)


def test_budgets_that_do_not_fit_are_refused() -> None:
    whole = fixed("duo", "a", budgets("duo"))
    check_fit([whole], LAYOUT, [50, 60])
    with pytest.raises(UsageError, match="budget duo a is of tiny and the model of other"):
        check_fit([whole], OTHER, [50])
    apart = fixed("duo", "b", budgets("duo", granularity="query"))
    with pytest.raises(UsageError, match="per KV head and per query head"):
        check_fit([whole, apart], LAYOUT, [50])
    with pytest.raises(UsageError, match="nothing beyond the window"):
        check_fit([allocated([run()], BudgetSize(tokens=8))], LAYOUT, [50])

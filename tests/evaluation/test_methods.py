from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headprobe.allocators import Budget, allocate
from headprobe.allocators.mixing import WeightedRun
from headprobe.budgets import HeadBudgets
from headprobe.errors import UsageError
from headprobe.evaluation.baselines import BASELINES, SINKS, baselines, shuffle, with_baselines
from headprobe.evaluation.methods import (
    Contender,
    MethodOptions,
    Moment,
    allocated,
    check_fit,
    fixed,
    line_up,
    parse_budgets,
)
from headprobe.models.layout import HeadLayout
from headprobe.scores import HeadScores

LAYOUT = HeadLayout(
    id="tiny", architecture="LlamaForCausalLM", layers=3, heads=8, kv_heads=4, head_dim=8
)
OTHER = HeadLayout(
    id="other", architecture="LlamaForCausalLM", layers=3, heads=8, kv_heads=2, head_dim=8
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


def moment(tokens: int, question_id: int = 0, room: Sequence[int] | None = None) -> Moment:
    """With all tokens in every layer, unless there is less room."""
    rooms = np.full(LAYOUT.layers, tokens) if room is None else np.array(room)
    return Moment(tokens=tokens, question_id=question_id, room=rooms)


def entrants() -> list[Contender]:
    """By tokens, by share, some heads full, with compensation, a budget for query heads."""
    return [
        allocated([run()], Budget(tokens=20)),
        allocated([run()], Budget(share=0.1)),
        fixed("duo", "a", budgets("duo", sinks=2, recent=10)),
        fixed("razor", "b", budgets("razor", recent=20)),
        fixed("headkv", "c", budgets("headkv", budget=Budget(tokens=12), granularity="query")),
    ]


@pytest.mark.parametrize("entrant", entrants(), ids=lambda entrant: entrant.strategy)
@pytest.mark.parametrize("tokens", [100, 333, 1000])
def test_baselines_keep_as_many_entries_as_the_entrant(entrant: Contender, tokens: int) -> None:
    own = entrant.at(moment(tokens))
    for baseline in baselines(entrant, seed=0):
        other = baseline.at(moment(tokens))
        assert other.footprint(tokens).tokens == own.footprint(tokens).tokens
        assert other.granularity == own.granularity
        assert baseline.is_baseline
        assert baseline.budget == entrant.budget


def test_each_baseline_chooses_in_its_own_way() -> None:
    entrant = allocated([run()], Budget(tokens=20))
    found = {one.strategy: one for one in baselines(entrant, seed=0)}
    assert tuple(found) == BASELINES
    uniform, pyramid, adaptive, streaming, shuffled = (
        one.at(moment(500, 7)) for one in found.values()
    )
    assert (uniform.tokens == 20).all()
    assert (np.diff(pyramid.tokens[:, 0]) < 0).all()
    np.testing.assert_array_equal(adaptive.tokens, uniform.tokens)
    assert {name: one.floor for name, one in found.items() if one.floor} == {"adaptive": 0.2}
    assert (streaming.selection == "streaming").all()
    assert streaming.sinks == SINKS
    own = entrant.at(moment(500, 7)).tokens
    assert (shuffled.tokens != own).any()
    np.testing.assert_array_equal(np.sort(shuffled.tokens.ravel()), np.sort(own.ravel()))


def test_shuffled_budgets_are_those_of_shuffled_scores() -> None:
    groups = SCORES.reshape(-1, LAYOUT.group)
    order = np.random.default_rng(5).permutation(len(groups))
    own = budgets("headkv", budget=Budget(tokens=50))
    shuffled = allocate(
        groups[order].reshape(SCORES.shape), LAYOUT, strategy="headkv", budget=Budget(tokens=50)
    )
    np.testing.assert_array_equal(
        shuffle(own, room=np.full(3, 999), seed=5).tokens, shuffled.tokens
    )


def test_every_question_shuffles_anew_and_the_same_with_the_same_seed() -> None:
    entrant = allocated([run()], Budget(tokens=20))
    one, same, other = (baselines(entrant, seed=seed)[-1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.at(moment(500, 3)).tokens, same.at(moment(500, 3)).tokens)
    assert (one.at(moment(500, 3)).tokens != one.at(moment(500, 4)).tokens).any()
    assert (one.at(moment(500, 3)).tokens != other.at(moment(500, 3)).tokens).any()


def test_what_a_context_is_too_short_for_goes_to_other_heads() -> None:
    entrant = allocated([run()], Budget(tokens=100))
    kept = entrant.at(moment(150)).kept(150)
    assert kept.max() == 150
    assert kept.sum() == 100 * kept.size


def test_a_share_too_small_for_the_window_is_one_entry_more_than_it() -> None:
    entrant = allocated([run()], Budget(share=0.01), window=8)
    for one in (entrant, *baselines(entrant, seed=0)):
        assert one.at(moment(200)).kept(200).sum() == 9 * 12


def options(typed: list[str], *strategies: str) -> MethodOptions:
    return MethodOptions(budgets=parse_budgets(typed), strategies=strategies)


def test_entrants_are_read_as_typed(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    budgets("duo").save(path)
    typed = ["16,1.5%", str(path), "64"]
    lined_up = line_up(options(typed, "headkv", "pyramid"), [run()])
    assert [(one.strategy, one.budget) for one in lined_up] == [
        ("headkv", "16"),
        ("pyramid", "16"),
        ("headkv", "1.5%"),
        ("pyramid", "1.5%"),
        ("duo", "own"),
        ("headkv", "64"),
        ("pyramid", "64"),
    ]
    np.testing.assert_array_equal(lined_up[4].at(moment(99)).ratio, budgets("duo").ratio)
    everyone = with_baselines(lined_up, seed=0)
    # A baseline that entered is not there twice, and those of a budget stand behind it.
    names = [one.strategy for one in everyone if one.budget == "16"]
    assert names == ["headkv", "pyramid", "uniform", "adaptive", "streaming", "shuffled"]
    assert [one.budget for one in everyone] == [
        name for name in ("16", "1.5%", "own", "64") for _ in range(6)
    ]


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    files = [tmp_path / folder / "16.json" for folder in ("a", "b")]
    for file, size in zip(files, (12, 40), strict=True):
        file.parent.mkdir()
        budgets("headkv", budget=Budget(tokens=size)).save(file)
    typed = [*map(str, files), "16"]
    everyone = with_baselines(line_up(options(typed), [run()]), seed=0)
    kept = {(one.strategy, one.budget): one.at(moment(500)).kept(500).mean() for one in everyone}
    for name in ("headkv", "uniform", "shuffled"):
        assert [kept[name, budget] for budget in typed] == [12, 40, 16]
    alone = line_up(options([str(files[0]), "16"]), [run()])
    assert [one.budget for one in alone] == [str(files[0]), "16"]


@pytest.mark.parametrize("entrant", entrants(), ids=lambda entrant: entrant.strategy)
def test_baselines_keep_as_much_where_layers_have_less_room(entrant: Contender) -> None:
    room = [300, 0, 24]
    own = entrant.at(moment(300, room=room))
    held = np.stack([own.kept(most)[layer] for layer, most in enumerate(room)])
    total = held.sum() + own.compensation * (held < np.array(room)[:, None]).sum()
    for baseline in baselines(entrant, seed=0):
        other = baseline.at(moment(300, room=room))
        kept = other.kept(300)
        assert (kept <= np.array(room)[:, None]).all()
        more = other.compensation * (kept < np.array(room)[:, None]).sum()
        assert kept.sum() + more == total


def test_a_context_within_the_window_is_kept_whole() -> None:
    for budget in (Budget(tokens=20), Budget(share=0.1)):
        entrant = allocated([run()], budget)
        for one in (entrant, *baselines(entrant, seed=0)):
            assert (one.at(moment(5)).kept(5) == 5).all()


def test_baselines_of_less_than_the_window_keep_no_more() -> None:
    few = budgets("headkv", budget=Budget(tokens=20))
    for size in (4, 0):
        small = replace(few, tokens=np.full_like(few.tokens, size))
        for one in baselines(fixed("own", "a", small), seed=0):
            assert one.at(moment(128)).kept(128).sum() == small.tokens.sum()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["16,x"], "tokens a head"),
        (["16", "16"], "budget=16: given twice for headkv"),
        (["none.json"], "no budget at none.json"),
    ],
)
def test_what_is_no_budget_is_refused(typed: list[str], message: str) -> None:
    with pytest.raises(UsageError) as raised:
        line_up(options(typed), [run()])
    assert message in str(raised.value)


def test_budgets_that_do_not_fit_are_refused() -> None:
    whole = fixed("duo", "a", budgets("duo"))
    check_fit([whole], LAYOUT, [50, 60])
    with pytest.raises(UsageError, match=r"duo a is for tiny.*; other has"):
        check_fit([whole], OTHER, [50])
    apart = fixed("duo", "b", budgets("duo", granularity="query"))
    with pytest.raises(UsageError, match="per KV head and per query head"):
        check_fit([whole, apart], LAYOUT, [50])
    with pytest.raises(UsageError, match="nothing beyond the window"):
        check_fit([allocated([run()], Budget(tokens=8))], LAYOUT, [50])

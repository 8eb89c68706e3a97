from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from headprobe.allocators._pool import BudgetSize
from headprobe.allocators.headkv import headkv
from headprobe.allocators.tuned import tuned
from headprobe.errors import HeadprobeError
from tests._support.refusals import refused

WINDOW = 8
SCORES = st.tuples(st.integers(1, 4), st.integers(1, 4)).flatmap(
    lambda shape: arrays(
        np.float64, (shape[0], 2 * shape[1]), elements=st.floats(0, 1e4), unique=True
    )
)
OPTIONS = st.fixed_dictionaries(
    {
        "budget": st.integers(9, 300).map(lambda count: BudgetSize(tokens=count)),
        "beta": st.floats(1, 50),
        "min_entries": st.integers(0, 40),
        "fill_to": st.none() | st.integers(1, 400),
        "group": st.sampled_from([1, 2]),
        "reduce": st.sampled_from(["mean", "max", "sum"]),
        "context_length": st.none() | st.integers(1, 600),
    }
)


def tokens(scores: np.ndarray, **options: Any) -> np.ndarray:
    allocation = tuned(scores, window=WINDOW, **options)
    assert not allocation.ratio.any()
    return allocation.tokens


def least(options: dict[str, Any]) -> float:
    base = options["budget"].tokens - WINDOW
    return WINDOW + min(options["min_entries"], base - base / options["beta"])


def reduced(scores: np.ndarray, options: dict[str, Any]) -> np.ndarray:
    groups = scores.reshape(len(scores), -1, options["group"])
    return getattr(np, options["reduce"])(groups, axis=2)


@given(scores=SCORES, options=OPTIONS)
def test_the_total_is_exact_between_floor_and_context(
    scores: np.ndarray, options: dict[str, Any]
) -> None:
    kept = tokens(scores, **options)
    budget, cap = options["budget"].tokens, options["context_length"] or 10**9
    assert kept.shape == (len(scores), scores.shape[1] // options["group"])
    assert kept.sum() == min(budget, cap) * kept.size
    assert kept.min() >= min(np.floor(least(options) + 1e-9), cap)
    assert kept.max() <= cap


@given(scores=SCORES, options=OPTIONS)
def test_a_higher_score_never_gets_less(scores: np.ndarray, options: dict[str, Any]) -> None:
    kept = tokens(scores, **options).ravel()
    by_score = np.lexsort((kept, reduced(scores, options).ravel()))
    assert (np.diff(kept[by_score]) >= 0).all()


@given(scores=SCORES, options=OPTIONS, seed=st.integers(0, 99))
def test_permuted_heads_get_the_permuted_budget(
    scores: np.ndarray, options: dict[str, Any], seed: int
) -> None:
    heads, group = reduced(scores, options), options["group"]
    if len(np.unique(heads)) < heads.size:
        return
    order = np.random.default_rng(seed).permutation(heads.size)
    mixed = scores.reshape(-1, group)[order].reshape(scores.shape)
    assert (tokens(mixed, **options).ravel() == tokens(scores, **options).ravel()[order]).all()


@given(scores=SCORES, options=OPTIONS)
def test_no_head_passes_saturation_while_another_that_scores_is_below_it(
    scores: np.ndarray, options: dict[str, Any]
) -> None:
    fill_to = options["fill_to"]
    kept = tokens(scores, **options)
    if fill_to is None or fill_to < least(options):
        return
    cap = min(fill_to, options["context_length"] or fill_to)
    if (kept > cap + 1).any():
        assert (kept >= cap - 1).all()


@given(scores=SCORES, options=OPTIONS)
def test_with_a_high_floor_and_no_saturation_it_is_headkv(
    scores: np.ndarray, options: dict[str, Any]
) -> None:
    options = {**options, "min_entries": 1000, "fill_to": None}
    same = {
        name: value for name, value in options.items() if name not in ("min_entries", "fill_to")
    }
    assert (tokens(scores, **options) == headkv(scores, window=WINDOW, **same).tokens).all()


def test_the_floor_stops_growing_with_the_budget() -> None:
    scores = np.array([[1.0, 0.0], [0.0, 0.0]])
    small, large = (tokens(scores, group=1, budget=BudgetSize(tokens=n)) for n in (14, 320))
    assert small.tolist() == [[8 + 24 - 3, 9], [9, 9]]
    assert large.tolist() == [[4 * 320 - 3 * 12, 12], [12, 12]]
    proportional = headkv(scores, group=1, window=WINDOW, budget=BudgetSize(tokens=320)).tokens
    assert proportional[1, 1] == 60


def test_what_a_saturated_head_waits_with_fills_the_others_by_score() -> None:
    scores = np.array([[97.0, 2.0], [1.0, 0.0]])
    options = {"group": 1, "min_entries": 0, "budget": BudgetSize(tokens=20)}
    assert tokens(scores, fill_to=30, **options).tolist() == [[30, 25], [17, 8]]


def test_a_kv_head_scores_the_maximum_of_its_group() -> None:
    scores = np.array([[4.0, 0.0, 2.0, 2.0]])
    kept = tokens(scores, group=2, budget=BudgetSize(tokens=108), min_entries=0)
    # 200 entries beyond the windows, 2 to 1.
    assert kept.tolist() == [[8 + 133, 8 + 67]]


def test_in_fractions_of_an_unknown_context_the_floor_is_headkvs() -> None:
    options = {"group": 1, "window": WINDOW, "budget": BudgetSize(fraction=0.1)}
    allocation = tuned(np.array([[3.0, 1.0]]), **options)
    assert allocation.tokens.tolist() == [[WINDOW] * 2]
    assert (allocation.ratio == headkv(np.array([[3.0, 1.0]]), **options).ratio).all()


@pytest.mark.parametrize(
    ("option", "value"),
    [("beta", 0.9), ("min_entries", -1), ("fill_to", 0), ("reduce", "median")],
)
def test_options_out_of_range_are_wrong_usage(option: str, value: Any) -> None:
    budget = BudgetSize(tokens=16)
    with refused(option=option, value=value):
        tuned(np.ones((2, 2)), group=1, window=WINDOW, budget=budget, **{option: value})


def test_entries_to_fill_to_cannot_be_counted_in_an_unknown_context() -> None:
    budget = BudgetSize(fraction=0.1)
    with refused("counts entries", option="fill_to", value=64):
        tuned(np.ones((2, 2)), group=1, window=WINDOW, budget=budget, fill_to=64)


def test_scores_that_tell_nothing_are_refused() -> None:
    with pytest.raises(HeadprobeError, match="all scores are zero"):
        tuned(np.zeros((2, 2)), group=1, window=WINDOW, budget=BudgetSize(tokens=16))

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from headprobe.allocators._pool import BudgetSize
from headprobe.allocators.headkv import headkv
from headprobe.errors import HeadprobeError
from tests._support.refusals import refused

PUBLISHED = Path(__file__).parents[2] / ".." / "shared" / "published" / "headkv"
FILES = {"copy": "retrieval", "reason": "retrieval_reasoning"}

SCORES = st.tuples(st.integers(1, 4), st.integers(1, 4)).flatmap(
    lambda shape: arrays(
        np.float64, (shape[0], 2 * shape[1]), elements=st.floats(0, 1e4), unique=True
    )
)
SETTINGS = {
    "budget": st.integers(9, 300),
    "beta": st.floats(1, 50),
    "group": st.sampled_from([1, 2]),
    "reduce": st.sampled_from(["mean", "max", "sum"]),
    "context_length": st.none() | st.integers(1, 600),
}


def tokens(
    scores: np.ndarray,
    *,
    budget: int,
    beta: float,
    group: int,
    reduce: str,
    context_length: int | None,
) -> np.ndarray:
    allocation = headkv(
        scores,
        group=group,
        window=8,
        budget=BudgetSize(tokens=budget),
        beta=beta,
        reduce=reduce,
        context_length=context_length,
    )
    assert not allocation.ratio.any()
    return allocation.tokens


def reduced(scores: np.ndarray, group: int, reduce: str) -> np.ndarray:
    groups = scores.reshape(len(scores), -1, group)
    return getattr(np, reduce)(groups, axis=2)


@given(scores=SCORES, **SETTINGS)
def test_the_total_is_exact_between_window_and_context(
    scores: np.ndarray,
    budget: int,
    beta: float,
    group: int,
    reduce: str,
    context_length: int | None,
) -> None:
    kept = tokens(
        scores, budget=budget, beta=beta, group=group, reduce=reduce, context_length=context_length
    )
    cap = context_length or 10**9
    assert kept.shape == (len(scores), scores.shape[1] // group)
    assert kept.sum() == min(budget, cap) * kept.size
    assert kept.min() >= min(8, cap)
    assert kept.max() <= cap


@given(scores=SCORES, **SETTINGS)
def test_a_higher_score_never_gets_less(
    scores: np.ndarray,
    budget: int,
    beta: float,
    group: int,
    reduce: str,
    context_length: int | None,
) -> None:
    kept = tokens(
        scores, budget=budget, beta=beta, group=group, reduce=reduce, context_length=context_length
    )
    heads = reduced(scores, group, reduce)
    by_score = np.lexsort((kept.ravel(), heads.ravel()))
    assert (np.diff(kept.ravel()[by_score]) >= 0).all()


@given(scores=SCORES, seed=st.integers(0, 99), **SETTINGS)
def test_permuted_heads_get_the_permuted_budget(
    scores: np.ndarray,
    seed: int,
    budget: int,
    beta: float,
    group: int,
    reduce: str,
    context_length: int | None,
) -> None:
    heads = reduced(scores, group, reduce)
    if len(np.unique(heads)) < heads.size:
        return
    options = {
        "budget": budget,
        "beta": beta,
        "group": group,
        "reduce": reduce,
        "context_length": context_length,
    }
    order = np.random.default_rng(seed).permutation(heads.size)
    mixed = scores.reshape(-1, group)[order].reshape(scores.shape)
    assert tokens(mixed, **options).ravel().tolist() == (
        tokens(scores, **options).ravel()[order].tolist()
    )


@given(scores=SCORES, **SETTINGS)
def test_without_a_cap_each_head_is_within_one_of_the_formula(
    scores: np.ndarray,
    budget: int,
    beta: float,
    group: int,
    reduce: str,
    context_length: int | None,
) -> None:
    kept = tokens(scores, budget=budget, beta=beta, group=group, reduce=reduce, context_length=None)
    heads = reduced(scores, group, reduce)
    base, fraction = budget - 8, heads / heads.sum()
    formula = 8 + base - base / beta + fraction * (base / beta) * heads.size
    assert (np.abs(kept - formula) < 1 + 1e-6).all()


def test_what_a_short_context_cannot_use_goes_to_the_other_heads_by_score() -> None:
    scores = np.array([[97.0, 2.0], [1.0, 0.0]])
    kept = tokens(scores, budget=20, beta=1.0, group=1, reduce="mean", context_length=30)
    # 48 entries beyond the window; the first head can use 22, the rest falls 2 to 1.
    assert kept.tolist() == [[30, 25], [17, 8]]


def test_heads_without_a_score_share_what_no_other_can_use() -> None:
    scores = np.array([[1.0, 0.0, 0.0]])
    kept = tokens(scores, budget=20, beta=1.0, group=1, reduce="mean", context_length=30)
    assert kept.tolist() == [[30, 15, 15]]


def test_mean_and_sum_over_a_group_give_the_same_budget_and_max_another() -> None:
    scores = np.array([[4.0, 0.0, 2.0, 2.0], [0.0, 1.0, 1.0, 1.0]])
    options = {"budget": 100, "beta": 1.2, "group": 2, "context_length": None}
    mean, total, highest = (tokens(scores, reduce=r, **options) for r in ("mean", "sum", "max"))
    assert mean.tolist() == total.tolist()
    assert mean[0, 0] == mean[0, 1]
    assert highest[0, 0] > highest[0, 1]


def test_a_fraction_of_an_unknown_context_becomes_ratios_over_the_window() -> None:
    scores = np.array([[60.0, 2.0], [1.0, 0.0]])
    for fraction in (0.015, 0.5, 1.0):
        allocation = headkv(scores, group=1, window=8, budget=BudgetSize(fraction=fraction))
        assert allocation.tokens.tolist() == [[8, 8], [8, 8]]
        assert allocation.ratio.sum() == pytest.approx(4 * fraction)
        assert allocation.ratio.max() <= 1
        assert (np.diff(allocation.ratio.ravel()) <= 0).all()
        assert allocation.ratio.min() >= fraction - fraction / 1.2 - 1e-12


def test_a_fraction_of_a_known_context_is_exact_in_total() -> None:
    scores = np.arange(12.0).reshape(3, 4)
    allocation = headkv(
        scores, group=2, window=8, budget=BudgetSize(fraction=0.015), context_length=1237
    )
    assert allocation.tokens.sum() == round(0.015 * 1237 * 6)


@pytest.mark.parametrize("beta", [0.99, 0.0, -1.0, np.nan, np.inf])
def test_a_beta_below_one_is_wrong_usage(beta: float) -> None:
    with refused(option="beta", value=beta):
        headkv(np.ones((2, 2)), group=1, window=8, budget=BudgetSize(tokens=16), beta=beta)


def test_scores_that_tell_nothing_are_refused() -> None:
    with pytest.raises(HeadprobeError, match="all scores are zero"):
        headkv(np.zeros((2, 2)), group=1, window=8, budget=BudgetSize(tokens=16))


def test_the_papers_rounding_knows_no_fractions() -> None:
    with refused(r"in tokens, not 1\.5%", option="rounding", value="reference"):
        headkv(
            np.ones((2, 2)),
            group=1,
            window=8,
            budget=BudgetSize(fraction=0.015),
            rounding="reference",
        )


def test_the_papers_rounding_loses_what_a_short_context_cannot_use() -> None:
    scores = np.array([[97.0, 2.0], [1.0, 0.0]])
    allocation = headkv(
        scores,
        group=1,
        window=8,
        budget=BudgetSize(tokens=20),
        beta=1.0,
        rounding="reference",
        context_length=30,
    )
    assert allocation.tokens.tolist() == [[30, 9], [8, 8]]


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published files are not here")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("kind", FILES)
def test_the_papers_rounding_equals_what_the_authors_class_computes(
    kind: str, dtype: type[np.floating]
) -> None:
    name = f"Meta-Llama-3-8B-Instruct_{FILES[kind]}_heads.json"
    cases = json.loads((PUBLISHED / name).read_text())
    scores = np.array([np.mean(of_head) for of_head in cases.values()], dtype=dtype)
    with np.load(PUBLISHED / "llama3_capacities.npz", allow_pickle=False) as capacities:
        stored = {key: capacities[key] for key in capacities.files if f"-{kind}-" in key}
    assert len(stored) == 40
    for key, expected in stored.items():
        budget, beta = key.split("-")[2:]
        allocation = headkv(
            scores.reshape(32, 32),
            group=1,
            window=8,
            budget=BudgetSize(tokens=int(budget)),
            beta=float(beta),
            rounding="reference",
        )
        # The stored capacities leave the window out.
        assert np.array_equal(allocation.tokens - 8, expected), key

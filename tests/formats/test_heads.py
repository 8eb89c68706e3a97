from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from headprobe.budgets import HeadBudgets
from headprobe.errors import HeadprobeError, UsageError
from headprobe.formats._heads import GAP, amounts, gates, mask_of_budget, spread
from tests._support.refusals import refused

MakeBudget = Callable[..., HeadBudgets]
SCORES = arrays(
    np.float64,
    st.integers(1, 40),
    elements=st.sampled_from([-3.0, 0.0, 1e-9, 2e-6, 0.25, 0.5, 1.0, 7.0]) | st.floats(-5, 5),
)


@settings(deadline=None)
@given(scores=SCORES)
@pytest.mark.slow
def test_spread_values_keep_their_order_their_bounds_and_their_distance(
    scores: np.ndarray,
) -> None:
    values = spread(scores, 0.6, 1.0)
    assert values.min() >= 0.6 - 1e-12
    assert values.max() <= 1.0 + 1e-12
    places = sorted(range(len(scores)), key=lambda i: (scores[i], -i))
    assert (np.diff(values[places]) >= GAP * (1 - 1e-6)).all()


@settings(deadline=None)
@given(scores=arrays(np.float64, st.integers(1, 40), elements=st.floats(0.6, 1), unique=True))
def test_values_that_lie_right_move_by_no_more_than_ties_need(scores: np.ndarray) -> None:
    assert np.abs(spread(scores, 0.6, 1.0) - scores).max() <= GAP * scores.size


def test_gates_without_a_head_on_one_side() -> None:
    scores = np.array([[0.1, 0.2], [0.3, 0.4]])
    assert gates(scores, np.ones((2, 2), dtype=bool)).min() >= 0.6
    assert gates(scores, np.zeros((2, 2), dtype=bool)).max() <= 0.4


def test_a_mask_is_read_off_a_budget(streaming_budget: HeadBudgets) -> None:
    mask = mask_of_budget(streaming_budget)
    assert np.flatnonzero(mask.full).tolist() == [0, 3, 4, 9, 11]
    assert (mask.sinks, mask.recent, mask.notes) == (4, 60, ())
    assert mask.sparsity == pytest.approx(7 / 12)


def test_what_a_mask_cannot_say_of_razors_budget_is_told(make_budget: MakeBudget) -> None:
    mask = mask_of_budget(
        make_budget(
            sinks=4,
            compensation=True,
            selection=np.full((3, 4), "streaming"),
            tokens=np.full((3, 4), 4004),
            ratio=np.full((3, 4), 0.2),
        )
    )
    assert mask.recent == 4000
    assert mask.notes == (
        "streaming heads keep 4004 entries: that they keep 20% of a longer context cannot be said "
        "in this format",
        "whether an entry stands for what is dropped is up to the program",
    )


def test_a_budget_of_a_full_cache_is_a_mask_too(make_budget: MakeBudget) -> None:
    mask = mask_of_budget(make_budget(ratio=np.ones((3, 4))))
    assert mask.full.all()
    assert mask.recent == 8


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"selection": np.full((3, 4), "streaming")},
        {"selection": np.full((3, 4), "streaming"), "sinks": 8, "tokens": np.full((3, 4), 8)},
    ],
)
def test_a_budget_that_does_not_stream_is_no_mask(
    changes: dict[str, object], make_budget: MakeBudget
) -> None:
    with pytest.raises(UsageError, match=r"\(layer 0, head 0: \d+ entries by .*such as duo"):
        mask_of_budget(make_budget(**changes))


def test_a_budget_per_query_head_is_never_taken_for_one_per_kv_head(
    make_budget: MakeBudget,
) -> None:
    budgets = make_budget(
        granularity="query",
        selection=np.full((3, 8), "streaming"),
        tokens=np.full((3, 8), 64),
        ratio=np.zeros((3, 8)),
    )
    for take in (mask_of_budget, lambda b: amounts(b, None)):
        with refused("allocate again with `granularity=kv`"):
            take(budgets)


def test_fractions_of_a_context_need_its_length(make_budget: MakeBudget) -> None:
    budgets = make_budget(ratio=np.full((3, 4), 0.5))
    with refused(option="context_length"):
        amounts(budgets, None)
    assert amounts(budgets, 100).tolist() == [[50.0] * 4] * 3
    with refused(option="context_length", value=0):
        amounts(budgets, 0)
    with pytest.raises(HeadprobeError, match="the budget keeps nothing"):
        amounts(make_budget(tokens=np.zeros((3, 4), dtype=np.int64)), None)

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headprobe.allocators.razor import razor
from headprobe.budgets import HeadBudgets
from headprobe.models.layout import HeadLayout
from tests._support.refusals import refused

GENERATOR = np.random.default_rng(0)
MEASURED = {"induction": GENERATOR.random((32, 32)), "echo": GENERATOR.random((32, 32))}
NOTHING = np.zeros((32, 32))


def plainly_chosen(measure: str, fraction: float, group: int) -> set[tuple[int, int]]:
    """The KV heads with one of the highest query heads of ``fraction`` of all KV heads."""
    layers, heads = NOTHING.shape
    best = {
        (layer, kv): max(MEASURED[measure][layer, kv * group + i] for i in range(group))
        for layer in range(layers)
        for kv in range(heads // group)
    }
    count = -(-round(fraction * 100) * len(best) // 100)
    return set(sorted(best, key=lambda head: -best[head])[:count])


@pytest.mark.parametrize("group", [1, 4, 8])
def test_the_first_by_induction_and_the_first_by_echo_are_kept(group: int) -> None:
    allocation = razor(NOTHING, group=group, window=8, measured=MEASURED)
    expected = plainly_chosen("induction", 0.14, group) | plainly_chosen("echo", 0.01, group)
    assert {(i, k) for i, k in np.argwhere(allocation.ratio == 1)} == expected
    assert (allocation.sinks, allocation.compensation) == (4, True)


def test_without_echo_heads_and_without_compensation() -> None:
    allocation = razor(NOTHING, group=4, window=8, measured=MEASURED, echo=0.0, compensation=False)
    assert (allocation.ratio == 1).sum() == len(plainly_chosen("induction", 0.14, 4))
    assert not allocation.compensation


@given(length=st.integers(1, 300_000))
def test_the_others_keep_what_the_paper_says_but_for_the_sinks_of_a_long_context(
    length: int,
) -> None:
    allocation = razor(NOTHING, group=4, window=8, measured=MEASURED)
    budgets = HeadBudgets(
        layout=HeadLayout(
            id="x", architecture="llama", layers=32, num_heads=32, num_kv_heads=8, head_dim=128
        ),
        strategy={"name": "razor"},
        granularity="kv",
        window=8,
        sinks=allocation.sinks,
        compensation=allocation.compensation,
        selection=allocation.selection,
        tokens=allocation.tokens,
        ratio=allocation.ratio,
    )
    kept = budgets.kept(length)
    others = kept[allocation.ratio < 1]
    assert (kept[allocation.ratio == 1] == length).all()
    paper = min(length, 4 + max(4000, -(-length // 5)))
    assert others.min() == others.max()
    assert 0 <= paper - others[0] <= (4 if length > 20_000 else 0)


def test_wrong_usage_is_refused() -> None:
    with refused("from 0 to 1", option="echo", value=14.0):
        razor(NOTHING, group=4, window=8, measured=MEASURED, echo=14.0)
    with pytest.raises(ValueError, match="the measure 'echo', got none"):
        razor(NOTHING, group=4, window=8, measured={"induction": NOTHING})

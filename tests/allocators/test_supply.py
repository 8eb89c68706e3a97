import math

import pytest

from headprobe.allocators._supply import Budget, Supply, parse_budget
from headprobe.errors import UsageError
from tests._support.refusals import refused


@pytest.mark.parametrize(
    ("text", "budget", "as_given"),
    [
        ("128", Budget(tokens=128), 128),
        (" 128 ", Budget(tokens=128), 128),
        ("1.5%", Budget(share=0.015), "1.5%"),
        ("1.5 %", Budget(share=0.015), "1.5%"),
        (".1%", Budget(share=0.001), "0.1%"),
        ("100%", Budget(share=1.0), "100%"),
        ("7%", Budget(share=0.07), "7%"),
    ],
)
def test_tokens_and_shares_are_read_and_recorded(
    text: str, budget: Budget, as_given: int | str
) -> None:
    assert parse_budget(text) == budget
    assert budget.as_given == as_given


@pytest.mark.parametrize(
    "text",
    ["", "many", "0", "-5", "12.5", "1e3", "1_000", "0%", "101%", "-1%", "%", "nan%", "9" * 12],
)
def test_anything_else_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match="budget"):
        parse_budget(text)


def test_a_budget_is_either_tokens_or_a_share() -> None:
    for fields in ({}, {"tokens": 1, "share": 0.5}):
        with pytest.raises(ValueError, match="either"):
            Budget(**fields)


def test_tokens_supply_that_many_a_head_and_no_more_than_the_context() -> None:
    budget = Budget(tokens=128)
    assert budget.supply(10, window=8, context_length=None) == Supply(
        mean=128.0, total=1280.0, floor=8.0, cap=math.inf, entries=True
    )
    assert budget.supply(10, window=8, context_length=100) == Supply(
        mean=100.0, total=1000.0, floor=8.0, cap=100.0, entries=True
    )


def test_a_share_supplies_entries_of_a_known_context_and_shares_of_an_unknown_one() -> None:
    budget = Budget(share=0.015)
    known = budget.supply(3, window=8, context_length=1001)
    assert known == Supply(mean=15.0, total=45.0, floor=8.0, cap=1001.0, entries=True)
    assert budget.supply(3, window=8, context_length=None) == Supply(
        mean=0.015, total=0.045, floor=0.0, cap=1.0, entries=False
    )


@pytest.mark.parametrize(
    ("budget", "context_length"), [(Budget(tokens=8), None), (Budget(share=0.01), 800)]
)
def test_a_budget_no_larger_than_the_window_is_wrong_usage(
    budget: Budget, context_length: int | None
) -> None:
    with refused(r"8 entries a head leave nothing .* window of 8", option="budget"):
        budget.supply(4, window=8, context_length=context_length)


def test_a_context_of_no_tokens_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="--context-length must be 1 or more, got 0"):
        Budget(tokens=128).supply(4, window=8, context_length=0)

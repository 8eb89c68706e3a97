import pytest

from headprobe.allocators._pool import BudgetPool, BudgetSize, parse_budget
from headprobe.budgets import MAX_TOKENS
from headprobe.errors import UsageError
from tests._support.refusals import refused


@pytest.mark.parametrize(
    ("text", "budget", "as_given"),
    [
        ("128", BudgetSize(tokens=128), 128),
        (" 128 ", BudgetSize(tokens=128), 128),
        ("1.5%", BudgetSize(fraction=0.015), "1.5%"),
        ("1.5 %", BudgetSize(fraction=0.015), "1.5%"),
        (".1%", BudgetSize(fraction=0.001), "0.1%"),
        ("100%", BudgetSize(fraction=1.0), "100%"),
        ("7%", BudgetSize(fraction=0.07), "7%"),
    ],
)
def test_tokens_and_fractions_are_read_and_recorded(
    text: str, budget: BudgetSize, as_given: int | str
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


def test_a_budget_is_either_tokens_or_a_fraction() -> None:
    for fields in ({}, {"tokens": 1, "fraction": 0.5}):
        with pytest.raises(ValueError, match="either"):
            BudgetSize(**fields)


def test_tokens_supply_that_many_a_head_and_no_more_than_the_context() -> None:
    budget = BudgetSize(tokens=128)
    assert budget.pool(10, window=8, context_length=None) == BudgetPool(
        mean=128.0, total=1280.0, floor=8.0, cap=float(MAX_TOKENS), entries=True
    )
    assert budget.pool(10, window=8, context_length=100) == BudgetPool(
        mean=100.0, total=1000.0, floor=8.0, cap=100.0, entries=True
    )


def test_a_fraction_supplies_entries_of_a_known_context_and_fractions_of_another() -> None:
    budget = BudgetSize(fraction=0.015)
    known = budget.pool(3, window=8, context_length=1001)
    assert known == BudgetPool(mean=15.0, total=45.0, floor=8.0, cap=1001.0, entries=True)
    assert budget.pool(3, window=8, context_length=None) == BudgetPool(
        mean=0.015, total=0.045, floor=0.0, cap=1.0, entries=False
    )


@pytest.mark.parametrize(
    ("budget", "context_length"), [(BudgetSize(tokens=8), None), (BudgetSize(fraction=0.01), 800)]
)
def test_a_budget_no_larger_than_the_window_is_wrong_usage(
    budget: BudgetSize, context_length: int | None
) -> None:
    with refused(r"8 entries a head leave nothing .* window of 8", option="budget"):
        budget.pool(4, window=8, context_length=context_length)


def test_a_context_of_no_tokens_is_wrong_usage() -> None:
    with refused(option="context_length", value=0):
        BudgetSize(tokens=128).pool(4, window=8, context_length=0)

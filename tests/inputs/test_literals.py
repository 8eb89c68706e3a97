from __future__ import annotations

import pytest

from headprobe.inputs.literals import parse_literal


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{0: [1", "no Python literal, or cut short"),
        ("__import__('os')", "no Python literal"),
        ("1is 1", "no Python literal"),
        ("{[1]: 2}", "no Python literal"),
        ("[" * 10_000, "no Python literal"),
        ("-" * 10_000 + "1", "no Python literal"),
        (" " * 1_000_001, "of 1,000,001 characters, 1,000,000 at most"),
        ("[{'a': 1, 'a': 2}]", "a key is given twice"),
    ],
)
def test_what_is_no_plain_literal_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_literal(text)


def test_a_literal_is_read_and_of_a_key_given_twice_the_last_value_if_that_is_allowed() -> None:
    assert parse_literal(" [{'Q': 'q?', 'S': ('a', 1.5)}, None]\n") == [
        {"Q": "q?", "S": ("a", 1.5)},
        None,
    ]
    assert parse_literal("{'a': 1, 'a': 2}", unique_keys=False) == {"a": 2}

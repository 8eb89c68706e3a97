from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from headprobe.tasks.grading import exact_match, f1, recall


@pytest.mark.parametrize(
    ("response", "answers", "exact", "overlap", "found"),
    [
        ("velvet kettles", ["velvet kettles"], 100, 100, 100),
        ("The velvet, kettles!", ["velvet kettles"], 100, 100, 100),
        ("It is the velvet kettles.", ["velvet kettles"], 0, 100 * 4 / 6, 100),
        ("velvet", ["velvet kettles"], 0, 100 * 2 / 3, 50),
        ("velvet velvet", ["velvet kettles"], 0, 50, 50),
        ("", ["velvet kettles"], 0, 0, 0),
        # Each metric takes the answer that fits best by it.
        ("red kettles", ["red", "blue kettles and red clocks"], 0, 100 * 2 / 3, 100),
        ("blue", ["red", "blue"], 100, 100, 100),
        # A choice that happens to be an article is an answer.
        ("A.", ["A"], 100, 100, 100),
        ("B", ["A"], 0, 0, 0),
        ("", ["A"], 0, 0, 0),
    ],
)
def test_answers_are_graded_by_words(
    response: str, answers: list[str], exact: float, overlap: float, found: float
) -> None:
    assert exact_match(response, answers) == exact
    assert f1(response, answers) == pytest.approx(overlap)
    assert recall(response, answers) == pytest.approx(found)


@pytest.mark.parametrize("metric", [exact_match, f1, recall])
def test_grades_are_per_cent(metric: Callable[[str, Sequence[str]], float]) -> None:
    assert metric("three of five words", ["three of five words"]) == 100

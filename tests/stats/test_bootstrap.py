from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from headprobe.stats.bootstrap import RESAMPLES, interval
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


def plain_interval(values: list[float], groups: list[int], seed: int) -> tuple[float, float]:
    """Every resample drawn and averaged case by case."""
    units = sorted(set(groups)) if len(set(groups)) > 1 else list(range(len(values)))
    members = groups if len(set(groups)) > 1 else units
    generator = np.random.default_rng(seed)
    shares = np.full(len(units), 1 / len(units))
    means = []
    for draw in generator.multinomial(len(units), shares, size=RESAMPLES):
        times = dict(zip(units, draw, strict=True))
        drawn = [v for v, m in zip(values, members, strict=True) for _ in range(times[m])]
        means.append(sum(drawn) / len(drawn))
    low, high = np.quantile(means, (0.025, 0.975))
    return low, high


@pytest.mark.parametrize("groups", [[4, 4, 9, 9, 2], [7, 7, 7, 7, 7], [0, 1, 2, 3, 4]])
def test_an_interval_resamples_groups_or_cases_of_the_only_group(groups: list[int]) -> None:
    values = [0.0, 50.0, 100.0, 20.0, 70.0]
    found = interval(np.array(values), groups, seed=3)
    assert found.value == pytest.approx(48.0)
    wanted = plain_interval(values, groups, seed=3)
    np.testing.assert_allclose((found.ci_low, found.ci_high), wanted)


def test_the_interval_of_differences_is_paired() -> None:
    generator = np.random.default_rng(0)
    one = generator.random(40)
    groups = [case // 4 for case in range(40)]
    same = interval(one + 0.1 - one, groups)
    assert same.ci_low == pytest.approx(same.ci_high) == pytest.approx(0.1)


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.arange(12.0)
    groups = list(range(12))
    assert interval(values, groups, seed=1) == interval(values, groups, seed=1)
    assert interval(values, groups, seed=1) != interval(values, groups, seed=2)

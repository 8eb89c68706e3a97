from __future__ import annotations

import numpy as np
import pytest

from headprobe.stats.bootstrap import RESAMPLES, interval


def plain_interval(values: list[float], groups: list[int], seed: int) -> tuple[float, float]:
    """Every resample drawn and averaged case by case."""
    units = sorted(set(groups)) if len(set(groups)) > 1 else list(range(len(values)))
    members = groups if len(set(groups)) > 1 else units
    generator = np.random.default_rng(seed)
    fractions = np.full(len(units), 1 / len(units))
    means = []
    for draw in generator.multinomial(len(units), fractions, size=RESAMPLES):
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

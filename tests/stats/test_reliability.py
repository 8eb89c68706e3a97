"""Split-half reliability against plain loops over splits and needles."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from headprobe.stats.ranks import rank_correlation, top_overlap
from headprobe.stats.reliability import Estimate, Reliability, split_half

LAYERS, HEADS = 3, 8


def scores(needles: Sequence[int], *, agree: float = 1.0, seed: int = 0) -> np.ndarray:
    """A matrix a case: what heads share over needles, ``agree`` times as much as they do not."""
    generator = np.random.default_rng(seed)
    heads = agree * generator.exponential(size=(LAYERS, HEADS))
    own = {needle: generator.exponential(size=heads.shape) for needle in sorted(set(needles))}
    noise = 0.2 * generator.exponential(size=(len(needles), *heads.shape))
    return np.stack([heads + own[needle] for needle in needles]) + noise


def plain_mean(
    per_case: np.ndarray, needles: Sequence[int], weights: dict[int, float]
) -> np.ndarray:
    """The mean score of all heads over the cases of some needles, each case of its weight."""
    total, size = np.zeros(LAYERS * HEADS), 0.0
    for matrix, needle in zip(per_case, needles, strict=True):
        if needle in weights:
            total += weights[needle] * matrix.ravel()
            size += weights[needle]
    return (total / size).astype(np.float32)


def plain_agreement(
    per_case: np.ndarray,
    needles: Sequence[int],
    half: Sequence[int],
    weights: dict[int, float],
    k: int,
) -> tuple[float, float]:
    sides = [
        plain_mean(per_case, needles, {n: w for n, w in weights.items() if (n in half) == side})
        for side in (True, False)
    ]
    one, other = (side[None] for side in sides)
    return float(rank_correlation(one, other)[0]), float(top_overlap(one, other, k)[0])


def plain_step_up(correlation: float) -> float:
    return 2 * correlation / (1 + abs(correlation))


@pytest.mark.parametrize("needles", [(5, 1, 5, 2, 9, 9, 9, 5, 2, 0), tuple(range(7)) * 3])
@pytest.mark.parametrize("agree", [0.0, 2.0])
def test_the_estimates_are_the_means_over_all_ways_to_halve_the_needles(
    needles: tuple[int, ...], agree: float
) -> None:
    per_case = scores(needles, agree=agree)
    found = split_half(per_case, needles, k=5)
    names = sorted(set(needles))
    every = dict.fromkeys(names, 1.0)
    agreed = [
        plain_agreement(per_case, needles, half, every, 5)
        for half in itertools.combinations(names, len(names) // 2)
    ]
    correlations, overlaps = zip(*agreed, strict=True)
    assert found.rank_correlation
    assert found.overlap
    assert found.needles == len(names)
    # A hundred splits stand for all: within three standard errors.
    near = 3 * float(np.std(correlations)) / 10
    raw = float(np.mean(correlations))
    low, high = plain_step_up(raw - near), plain_step_up(raw + near)
    assert low <= found.rank_correlation.value <= high
    near = 3 * float(np.std(overlaps)) / 10
    assert found.overlap.value == pytest.approx(np.mean(overlaps), abs=near)


def test_the_intervals_are_those_of_a_plain_bootstrap_over_needles() -> None:
    needles = tuple(range(12)) * 2
    per_case = scores(needles)
    found = split_half(per_case, needles, k=6)
    draw = random.Random(1)
    correlations, overlaps = [], []
    for _ in range(600):
        weights = {needle: draw.expovariate(1) for needle in range(12)}
        splits = [
            plain_agreement(per_case, needles, draw.sample(range(12), 6), weights, 6)
            for _ in range(2)
        ]
        both = [sum(numbers) / 2 for numbers in zip(*splits, strict=True)]
        correlations.append(plain_step_up(both[0]))
        overlaps.append(both[1])
    for estimate, resampled in (
        (found.rank_correlation, correlations),
        (found.overlap, overlaps),
    ):
        assert estimate
        assert estimate.ci_low < estimate.value < estimate.ci_high < 1
        reach = 1.96 * float(np.std(resampled))
        # A standard error of a hundred resamples is good to 7 %; three times that.
        assert estimate.value - estimate.ci_low == pytest.approx(reach, rel=0.21)
        assert estimate.ci_high - estimate.value == pytest.approx(reach, rel=0.21)


def test_cases_of_one_needle_do_not_make_a_ranking_firm() -> None:
    few, many = tuple(range(6)), tuple(range(6)) * 20
    once, often = (
        split_half(scores(needles, agree=0.3, seed=3), needles).rank_correlation
        for needles in (few, many)
    )
    assert once
    assert often
    # Cases alone would agree nearly perfectly.
    as_cases = split_half(scores(many, agree=0.3, seed=3), range(120)).rank_correlation
    assert as_cases
    assert as_cases.ci_low > often.ci_high
    assert often.ci_high - often.ci_low > 0.5 * (once.ci_high - once.ci_low)


def test_more_needles_make_a_ranking_firmer() -> None:
    found = [split_half(scores(range(n), agree=1), range(n)) for n in (6, 24, 96)]
    values = [reliability.overlap.value for reliability in found if reliability.overlap]
    widths = [
        reliability.rank_correlation.ci_high - reliability.rank_correlation.ci_low
        for reliability in found
        if reliability.rank_correlation
    ]
    assert values == sorted(values)
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize("seed", range(5))
def test_pure_noise_is_not_taken_for_agreement(seed: int) -> None:
    found = split_half(np.random.default_rng(seed).random((60, 16, 16)), range(60))
    assert found.k == 30
    assert found.rank_correlation
    assert found.overlap
    assert found.rank_correlation.ci_low < 0 < found.rank_correlation.ci_high < 0.5
    assert found.overlap.ci_low < 30 / 256 < found.overlap.ci_high < 0.5
    assert not found.settled(0.5)


@pytest.mark.parametrize("needles", [(), (3,), (7, 7, 7, 7), (0, 1, 2, 2, 1, 0)])
def test_below_four_needles_there_is_no_estimate(needles: tuple[int, ...]) -> None:
    per_case = np.random.default_rng(0).random((len(needles), LAYERS, HEADS))
    found = split_half(per_case, needles)
    assert found == Reliability(needles=len(set(needles)), k=3, rank_correlation=None, overlap=None)
    assert not found.settled(-2.0)
    assert found.to_json() == {
        "needles": len(set(needles)),
        "k": 3,
        "rank_correlation": None,
        "overlap": None,
    }


def test_four_needles_are_enough() -> None:
    found = split_half(scores((4, 2, 3, 1)), (4, 2, 3, 1))
    assert found.rank_correlation
    assert found.overlap
    assert found.to_json()["overlap"] == {
        "value": found.overlap.value,
        "ci_low": found.overlap.ci_low,
        "ci_high": found.overlap.ci_high,
    }


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_heads_that_never_differ_have_no_ranking(value: float) -> None:
    found = split_half(np.full((8, LAYERS, HEADS), value), range(8))
    assert found.rank_correlation == Estimate(value=0.0, ci_low=0.0, ci_high=0.0)
    assert found.overlap
    assert found.overlap.value == pytest.approx(3 / 24)
    assert not found.settled(0.9)


def test_the_seed_decides_the_splits_and_nothing_else_does() -> None:
    needles = tuple(range(9)) * 2
    per_case = scores(needles)
    one, same, other = (split_half(per_case, needles, seed=seed) for seed in (0, 0, 1))
    assert one == same != other
    renamed = tuple(10 + needle for needle in needles)
    assert split_half(per_case, renamed) == one


def test_a_ranking_has_settled_when_both_intervals_lie_above_the_bound() -> None:
    high, low = (
        Estimate(value=value + 0.01, ci_low=value, ci_high=value + 0.02) for value in (0.96, 0.94)
    )
    for correlation, overlap, settled in (
        (high, high, True),
        (high, low, False),
        (low, high, False),
    ):
        found = Reliability(needles=9, k=5, rank_correlation=correlation, overlap=overlap)
        assert found.settled(0.95) is settled
        assert found.settled(0.9)
        assert not found.settled(0.96)


def test_a_record_cannot_be_half_known_nor_changed() -> None:
    known = Estimate(value=0.5, ci_low=0.4, ci_high=0.6)
    with pytest.raises(ValueError, match="both estimates or neither"):
        Reliability(needles=9, k=5, rank_correlation=known, overlap=None)
    with pytest.raises(FrozenInstanceError):
        known.value = 1.0  # type: ignore[misc]


def test_every_case_needs_its_needle() -> None:
    with pytest.raises(ValueError, match="the needle of each of 6 cases, got 5"):
        split_half(scores(range(6)), range(5))

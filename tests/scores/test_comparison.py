"""Comparisons of runs, measures, models and needles, against plain loops."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from headprobe.errors import UsageError
from headprobe.models.layout import HeadLayout
from headprobe.scores import HeadScores
from headprobe.scores.comparison import Comparison, compare_needles, compare_runs
from headprobe.stats.ranks import rank_correlation, top_overlap
from tests._support.refusals import refused

LAYOUT = HeadLayout(
    id="tiny", architecture="LlamaForCausalLM", layers=3, num_heads=8, num_kv_heads=2, head_dim=8
)
NEEDLES = (4, 0, 4, 7, 0, 0, 7)


def run(
    seed: int = 0,
    *,
    measures: tuple[str, ...] = ("r2",),
    task: str = "r2",
    layout: HeadLayout = LAYOUT,
    needles: tuple[int, ...] = NEEDLES,
) -> HeadScores:
    generator = np.random.default_rng(seed)
    shape = (len(needles), layout.layers, layout.num_heads)
    return HeadScores(
        layout=layout,
        task=task,
        per_case={name: generator.random(shape, dtype=np.float32) for name in measures},
        needles=needles,
        cases=9,
    )


def names(compared: Comparison) -> list[str]:
    return [ranking.name for ranking in compared.rankings]


def check(compared: Comparison, pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    assert len(compared.agreements) == len(pairs)
    for agreement, (one, other) in zip(compared.agreements, pairs, strict=True):
        rows = one.reshape(1, -1), other.reshape(1, -1)
        assert agreement.rank_correlation == pytest.approx(rank_correlation(*rows)[0])
        assert agreement.overlap == pytest.approx(top_overlap(*rows, compared.k)[0])


def test_every_run_is_compared_with_every_other() -> None:
    runs = [run(seed) for seed in range(4)]
    compared = compare_runs([(f"run-{i}", each) for i, each in enumerate(runs)])
    assert [(a.one, a.other) for a in compared.agreements] == list(
        itertools.combinations([f"run-{i}" for i in range(4)], 2)
    )
    assert (compared.heads, compared.k) == (24, 3)
    check(compared, list(itertools.combinations([each.mean("r2") for each in runs], 2)))


def test_a_run_agrees_with_itself() -> None:
    (found,) = compare_runs([("a", run()), ("b", run())], k=5).agreements
    assert (found.rank_correlation, found.overlap) == (pytest.approx(1), pytest.approx(1))


def test_rankings_are_named_by_what_sets_them_apart() -> None:
    other_model = replace(LAYOUT, id="other")
    for runs, subject, wanted in (
        ([run(), run(1)], "tiny, HeadKV-R2", ["x", "y"]),
        (
            [run(), run(measures=("retrieval",), task="retrieval")],
            "tiny",
            ["HeadKV-R2", "retrieval"],
        ),
        ([run(), run(layout=other_model)], "HeadKV-R2", ["tiny", "other"]),
        (
            [run(), run(measures=("mass",), task="retrieval", layout=other_model)],
            "",
            ["tiny HeadKV-R2", "other retrieval mass"],
        ),
    ):
        compared = compare_runs(list(zip("xy", runs, strict=True)))
        assert (compared.subject, names(compared)) == (subject, wanted)
        assert [ranking.number for ranking in compared.rankings] == [1, 2]


def test_several_runs_are_compared_by_their_own_measures_and_a_single_one_by_all() -> None:
    one, other = (run(seed, measures=("r2", "mass")) for seed in (0, 1))
    several = compare_runs([("x", one), ("y", other)])
    check(several, [(one.mean("r2"), other.mean("r2"))])
    single = compare_runs([("x", one)])
    assert (single.subject, names(single)) == ("tiny, HeadKV-R2", ["HeadKV-R2", "mass"])
    check(single, [(one.mean("r2"), one.mean("mass"))])


def test_named_measures_are_taken_of_every_run() -> None:
    runs = [run(seed, measures=("r2", "mass", "echo")) for seed in (0, 1)]
    compared = compare_runs(list(zip("xy", runs, strict=True)), measures=["echo", "mass"])
    assert names(compared) == ["x echo", "x mass", "y echo", "y mass"]
    means = [each.mean(measure) for each in runs for measure in ("echo", "mass")]
    check(compared, list(itertools.combinations(means, 2)))


def test_needles_are_compared_with_all_others_together() -> None:
    scored = run(measures=("r2", "mass"))
    for measure in ("r2", "mass"):
        compared = compare_needles(scored, measure=measure, k=4)
        assert names(compared) == ["needle 0", "needle 4", "needle 7"]
        assert [ranking.number for ranking in compared.rankings] == [0, 4, 7]
        pairs = []
        for needle, ranking in zip((0, 4, 7), compared.rankings, strict=True):
            cases = list(zip(scored.per_case[measure], NEEDLES, strict=True))
            own = np.mean([case for case, n in cases if n == needle], axis=0)
            others = np.mean([case for case, n in cases if n != needle], axis=0)
            np.testing.assert_allclose(ranking.scores, own, rtol=1e-6)
            pairs.append((own, others))
        check(compared, pairs)
        assert {agreement.other for agreement in compared.agreements} == {"others"}


def test_the_needles_of_a_run_are_split_by_its_own_measure_if_none_is_named() -> None:
    assert compare_needles(run(), measure=None).subject == "tiny, HeadKV-R2"
    several = run(measures=("r2", "mass"))
    assert compare_needles(several, measure="mass").subject == "tiny, HeadKV-R2, mass"


def test_models_of_another_layout_are_refused_those_of_other_kv_heads_are_not() -> None:
    compare_runs([("x", run()), ("y", run(layout=replace(LAYOUT, id="mha", num_kv_heads=8)))])
    other = run(layout=replace(LAYOUT, id="wide", num_heads=4))
    with pytest.raises(UsageError, match="which differ in heads, 8 and 4"):
        compare_runs([("x", run()), ("y", other)])


def test_one_ranking_alone_is_refused() -> None:
    for runs, measures in (([("x", run())], []), ([("x", run(measures=("a", "b")))], ["b"])):
        with pytest.raises(UsageError, match="nothing to be compared with"):
            compare_runs(runs, measures=measures)
    with pytest.raises(UsageError, match="all 3 passed cases have one needle"):
        compare_needles(run(needles=(2, 2, 2)), measure=None)


def test_a_measure_that_a_run_lacks_is_refused() -> None:
    with refused("holds r2", option="measure", value="mass"):
        compare_runs([("x", run()), ("y", run())], measures=["mass"])
    with refused("holds r2", option="measure", value="mass"):
        compare_needles(run(), measure="mass")


@pytest.mark.parametrize("k", [0, 25])
def test_the_top_is_some_of_the_heads(k: int) -> None:
    with refused("1 to 24", option="top_k", value=k):
        compare_runs([("x", run()), ("y", run())], k=k)
    with refused("1 to 24", option="top_k", value=k):
        compare_needles(run(), measure=None, k=k)
    assert compare_needles(run(), measure=None, k=24).agreements[0].overlap == 1

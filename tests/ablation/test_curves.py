"""Which heads are ablated, and what the curves and their area are, against plain arithmetic."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from headprobe.ablation.curves import CHOICES, Ablation, area_between
from headprobe.ablation.rankings import Trial, find_rankings, parse_top_k, plan_trials
from headprobe.errors import UsageError
from headprobe.models.layout import Head, HeadLayout
from headprobe.scores import HeadScores
from headprobe.stats.bootstrap import RESAMPLES
from tests._support.refusals import refused

LAYOUT = HeadLayout(
    id="tiny", architecture="llama", layers=3, num_heads=4, num_kv_heads=2, head_dim=8
)
EVERY = [(layer, head) for layer in range(3) for head in range(4)]
NEEDLES = (0, 0, 1, 1, 2, 2, 3, 3)


def rankings(*measures: str) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(5)
    return {name: generator.random((3, 4), dtype=np.float32) for name in measures}


def trials(*measures: str, random_draws: int = 4, seed: int = 0) -> tuple[Trial, ...]:
    return plan_trials(
        rankings(*measures), layers=range(3), top_k=[1, 2, 6], random_draws=random_draws, seed=seed
    )


def by_score(scores: np.ndarray) -> list[Head]:
    return sorted(EVERY, key=lambda head: -scores[head])


def test_top_and_bottom_are_the_highest_and_lowest_scores() -> None:
    for trial in trials("r2", "mass"):
        ranked = by_score(rankings("r2", "mass")[trial.measure])
        assert len(set(trial.heads)) == trial.k
        if trial.choice == "top":
            assert set(trial.heads) == set(ranked[: trial.k])
        if trial.choice == "bottom":
            assert set(trial.heads) == set(ranked[-trial.k :])


def test_every_measure_has_one_trial_a_choice_k_and_draw() -> None:
    found = [(t.measure, t.choice, t.k, t.draw) for t in trials("r2", "mass")]
    random_draws = {"top": [None], "random": list(range(4)), "bottom": [None]}
    assert found == [
        (measure, choice, k, draw)
        for measure in ("r2", "mass")
        for k in (1, 2, 6)
        for choice in CHOICES
        for draw in random_draws[choice]
    ]


@pytest.mark.parametrize("seed", range(20))
def test_random_heads_never_hold_one_of_the_top(seed: int) -> None:
    planned = trials("r2", "mass", seed=seed)
    top_k = {(t.measure, t.k): set(t.heads) for t in planned if t.choice == "top"}
    for trial in planned:
        if trial.choice == "random":
            assert not set(trial.heads) & top_k[trial.measure, trial.k]


def test_random_heads_are_drawn_alike_from_all_others() -> None:
    planned = trials("r2", random_draws=2000)
    (top,) = (t.heads for t in planned if (t.choice, t.k) == ("top", 2))
    drawn = [head for t in planned if (t.choice, t.k) == ("random", 2) for head in t.heads]
    counts = {head: drawn.count(head) for head in EVERY if head not in top}
    # 400 times each, give or take five standard errors.
    assert sum(counts.values()) == 4000
    assert all(abs(count - 400) < 95 for count in counts.values())


def test_the_seed_decides_what_is_drawn_and_measures_share_the_draws() -> None:
    assert trials("r2") == trials("r2")
    assert trials("r2") != trials("r2", seed=1)
    same = rankings("r2")["r2"]
    planned = plan_trials(
        {"one": same, "other": same}, layers=range(3), top_k=[3], random_draws=3, seed=0
    )
    heads = {
        name: [t.heads for t in planned if (t.measure, t.choice) == (name, "random")]
        for name in ("one", "other")
    }
    assert heads["one"] == heads["other"]
    assert len(set(heads["one"])) == 3


def test_heads_that_tie_are_ranked_by_layer_and_head() -> None:
    scores = np.zeros((3, 4), dtype=np.float32)
    scores[2, 1] = 1
    planned = plan_trials({"r2": scores}, layers=range(3), top_k=[3], random_draws=1, seed=0)
    heads = {trial.choice: trial.heads for trial in planned}
    assert heads["top"] == ((2, 1), (0, 0), (0, 1))
    assert heads["bottom"] == ((2, 0), (2, 2), (2, 3))


def test_layers_without_attention_have_no_heads() -> None:
    planned = plan_trials(rankings("r2"), layers=[0, 2], top_k=[1, 4], random_draws=5, seed=0)
    assert {layer for trial in planned for layer, _ in trial.heads} == {0, 2}


@pytest.mark.parametrize("k", [7, 12, 50])
def test_a_top_that_leaves_too_few_others_is_refused(k: int) -> None:
    with refused("at most 6", option="top_k", value=k):
        plan_trials(rankings("r2"), layers=range(3), top_k=[1, k], random_draws=1, seed=0)


def test_numbers_of_heads_are_read() -> None:
    assert parse_top_k("8, 1,2,2,4") == (1, 2, 4, 8)


@pytest.mark.parametrize("text", ["", "1,,2", "0,1", "-1", "1.5", "some"])
def test_other_texts_are_refused(text: str) -> None:
    with refused("numbers of heads as in 1,2,4,8", option="top_k", value=text):
        parse_top_k(text)


def area(top_k: list[int], random: list[float], top: list[float], full: float) -> float:
    curves = (np.array(curve, dtype=np.float64) for curve in (random, top))
    return float(area_between(top_k, *curves, full=np.array(float(full))))


def test_the_area_is_that_of_trapezoids_over_the_logarithm() -> None:
    # Heads 0, 1, 3 stand at 0, 1, 2. Between the curves: 0 to 30, then 30 to 60.
    between = (0 + 30) / 2 + (30 + 60) / 2
    # At most 0 to 80, then 80 to 80.
    most = 80 / 2 + 80
    assert area([1, 3], [70, 70], [40, 10], 80) == pytest.approx(between / most)


def test_the_area_of_one_number_of_heads_is_the_share_lost() -> None:
    assert area([5], [60], [20], 80) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("random", "top", "wanted"),
    [
        ([90, 90, 90], [0, 0, 0], 1),
        ([70, 50, 0], [70, 50, 0], 0),
        ([0, 0, 0], [90, 90, 90], -1),
    ],
)
def test_the_area_goes_from_minus_one_to_one(
    random: list[float], top: list[float], wanted: float
) -> None:
    assert area([1, 4, 30], random, top, 90) == pytest.approx(wanted)


def test_areas_of_rows_are_those_of_each() -> None:
    generator = np.random.default_rng(0)
    random, top = generator.random((2, 7, 3))
    full = np.array([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.0])
    found = area_between([1, 2, 4], random, top, full=full)
    for row in range(6):
        alone = area([1, 2, 4], random[row].tolist(), top[row].tolist(), full[row])
        assert found[row] == pytest.approx(alone)
    # Nothing to lose.
    assert found[6] == 0


def ablation(*measures: str, random_draws: int = 3, seed: int = 0) -> Ablation:
    planned = trials(*measures, random_draws=random_draws)
    generator = np.random.default_rng(7)
    return Ablation(
        layout=LAYOUT,
        task="r2",
        metric="passed",
        needles=NEEDLES,
        full=100.0 * (generator.random(8) < 0.9),
        trials=planned,
        grades=100.0 * (generator.random((len(planned), 8)) < 0.6),
        plan={"ablation": "zero"},
        seed=seed,
    )


def plain_means(done: Ablation, measure: str, choice: str) -> list[float]:
    """The mean accuracy for each k, over cases and draws."""
    return [
        float(
            np.mean(
                [
                    grades.mean()
                    for trial, grades in zip(done.trials, done.grades, strict=True)
                    if (trial.measure, trial.choice, trial.k) == (measure, choice, k)
                ]
            )
        )
        for k in (1, 2, 6)
    ]


def test_curves_are_means_and_the_largest_area_comes_first() -> None:
    done = ablation("r2", "mass", "echo")
    curves = done.curves()
    assert done.accuracy.value == done.full.mean()
    assert done.random_draws == 3
    assert {curve.measure for curve in curves} == {"r2", "mass", "echo"}
    areas = [curve.area.value for curve in curves]
    assert areas == sorted(areas, reverse=True)
    for curve in curves:
        assert curve.top_k == (1, 2, 6)
        for choice in CHOICES:
            found = [point.value for point in getattr(curve, choice)]
            assert found == pytest.approx(plain_means(done, curve.measure, choice))
        wanted = area(
            [1, 2, 6],
            plain_means(done, curve.measure, "random"),
            plain_means(done, curve.measure, "top"),
            done.full.mean(),
        )
        assert curve.area.value == pytest.approx(wanted)


def test_intervals_resample_needles_and_for_random_heads_draws_too() -> None:
    """Every resample drawn and added up case by case."""
    done = ablation("r2", seed=3)
    (curve,) = done.curves()
    needles = np.random.default_rng(3).multinomial(4, [1 / 4] * 4, size=RESAMPLES)
    random_draws = np.random.default_rng((3, 1)).multinomial(3, [1 / 3] * 3, size=RESAMPLES)
    grades = {(t.choice, t.k, t.draw): g for t, g in zip(done.trials, done.grades, strict=True)}
    top_k, random, areas = [], [], []
    for times, drawn in zip(needles, random_draws, strict=True):
        cases = [case for case in range(8) for _ in range(times[NEEDLES[case]])]
        draws_taken = [draw for draw in range(3) for _ in range(drawn[draw])]
        top = [np.mean(grades["top", k, None][cases]) for k in (1, 2, 6)]
        others = [
            np.mean([grades["random", k, draw][cases] for draw in draws_taken]) for k in (1, 2, 6)
        ]
        top_k.append(top[1])
        random.append(others[1])
        areas.append(area([1, 2, 6], others, top, float(np.mean(done.full[cases]))))
    for estimate, values in (
        (curve.top[1], top_k),
        (curve.random[1], random),
        (curve.area, areas),
    ):
        wanted = np.quantile(values, (0.025, 0.975))
        assert (estimate.ci_low, estimate.ci_high) == pytest.approx(tuple(wanted))


def test_the_table_and_the_report_hold_the_curves() -> None:
    done = ablation("r2", "mass")
    curves = done.curves()
    table = done.table()
    assert len(table) == 2 * 3 * 3
    for curve in curves:
        for choice in CHOICES:
            rows = table[(table["measure"] == curve.measure) & (table["heads"] == choice)]
            assert rows["k"].tolist() == [1, 2, 6]
            points = getattr(curve, choice)
            for column, field in (("accuracy", "value"), ("ci_low",) * 2, ("ci_high",) * 2):
                assert rows[column].tolist() == [getattr(point, field) for point in points]
            assert set(rows["area"]) == {curve.area.value}
    report = json.loads(json.dumps(done.to_json()))
    assert report["curves"] == json.loads(json.dumps([asdict(curve) for curve in curves]))
    for trial, told, grades in zip(done.trials, report["trials"], done.grades, strict=True):
        assert told["heads"] == [list(head) for head in trial.heads]
        assert told["accuracy"] == grades.mean()


def test_grades_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="expected grades of shape"):
        replace(ablation("r2"), needles=(0, 1))


def run(*measures: str, layout: HeadLayout = LAYOUT, value: float = 0.5) -> HeadScores:
    shape = (2, layout.layers, layout.num_heads)
    return HeadScores(
        layout=layout,
        task="r2",
        per_case={name: np.full(shape, value, dtype=np.float32) for name in measures},
        needles=(0, 1),
        cases=2,
    )


def test_measures_are_looked_up_in_the_first_run_that_holds_them() -> None:
    runs = [("a", run("r2", value=1)), ("b", run("r2", "mass", value=2)), ("c", run("echo"))]
    found = find_rankings(runs, ["echo", "mass", "r2"], LAYOUT)
    assert list(found) == ["echo", "mass", "r2"]
    assert [float(scores[0, 0]) for scores in found.values()] == [0.5, 2, 1]
    assert list(find_rankings(runs, [], LAYOUT)) == ["r2", "mass", "echo"]


@pytest.mark.parametrize(
    ("measure", "maker"),
    [
        ("retrieval", "`task=retrieval`"),
        ("alibi", "`task=alibi`"),
        ("locos", "`measures=locos`"),
    ],
)
def test_a_missing_measure_names_the_parameter_that_makes_it(measure: str, maker: str) -> None:
    with refused(f"only mass, r2; .*{maker}", option="measures", value=measure):
        find_rankings([("a", run("r2", "mass"))], ["r2", measure], LAYOUT)


def test_a_run_of_another_layout_is_refused() -> None:
    other = replace(LAYOUT, id="large", layers=5)
    with pytest.raises(UsageError, match=r"b is of large and .* of tiny, which differ in layers"):
        find_rankings([("a", run("r2")), ("b", run("r2", layout=other))], [], LAYOUT)

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_tensors

from headprobe.errors import HeadprobeError, UsageError
from headprobe.models.layout import HeadLayout
from headprobe.scores import FILE_NAME, HeadScores, HeadStatistics, recorded_digests
from headprobe.scores.utility import FRACTIONS, UtilityCurves
from headprobe.stats.reliability import split_half
from tests._support.refusals import refused

LAYOUT = HeadLayout(
    id="nano", architecture="LlamaForCausalLM", layers=2, num_heads=4, num_kv_heads=2, head_dim=8
)
PLAN = {"task": "r2", "lengths": [100, 200], "depths": [0.0, 33.3], "seed": 0}


def scores(passed: int = 6, **changes: Any) -> HeadScores:
    draw = np.random.default_rng(passed)
    shape = (passed, LAYOUT.layers, LAYOUT.num_heads)
    fields: dict[str, Any] = {
        "layout": LAYOUT,
        "task": "r2",
        "per_case": {
            "r2": draw.random(shape, dtype=np.float32),
            "mass": draw.random(shape, dtype=np.float32),
        },
        "needles": tuple(case % 3 for case in range(passed)),
        "cases": passed + 2,
        "plan": PLAN,
        "versions": {"headprobe": "0.1.0", "torch": "2.13.0"},
    }
    return HeadScores(**fields | changes)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / FILE_NAME
    scores().save(path)
    return path


def header_of(path: Path) -> dict[str, Any]:
    """Read as any other program would: eight bytes of length, then JSON."""
    content = path.read_bytes()
    whole = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    header: dict[str, Any] = json.loads(whole["__metadata__"]["headprobe"])
    return header


def rewrite(path: Path, header: Any, **tensors: np.ndarray) -> None:
    content = load_file(path) | tensors
    save_file(content, path, metadata={"headprobe": json.dumps(header)})


def test_what_is_saved_is_loaded_from_the_file_or_its_directory(saved: Path) -> None:
    before = scores()
    for place in (saved, saved.parent):
        after = HeadScores.load(place)
        for name in ("layout", "task", "needles", "cases", "plan", "versions", "measures"):
            assert getattr(after, name) == getattr(before, name)
        for measure in before.measures:
            np.testing.assert_array_equal(after.per_case[measure], before.per_case[measure])


def curves(heads: int = 2) -> UtilityCurves:
    gains = np.random.default_rng(0).random((3, 2, 2, heads, len(FRACTIONS))) / 200
    return UtilityCurves.of(list(gains.astype(np.float16)), [100, 200, 600])


def test_utility_is_saved_and_loaded(tmp_path: Path) -> None:
    path, utility = tmp_path / FILE_NAME, curves()
    scores(utility=utility).save(path)
    loaded = HeadScores.load(path)
    assert loaded.utility is not None
    for name, tensor in utility.to_tensors().items():
        np.testing.assert_array_equal(load_file(path)[name], tensor)
        np.testing.assert_array_equal(loaded.utility.to_tensors()[name], tensor)
    assert loaded.utility.tokens == 300


def test_curves_of_other_heads_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected utility of \(2, 2\) heads, got \(2, 3, 72\)"):
        scores(utility=curves(3))


@pytest.mark.parametrize(
    ("name", "tensor", "said"),
    [
        ("utility.shares", np.ones(len(FRACTIONS), dtype=np.float32), "rising utility.shares"),
        ("utility.tokens", np.zeros(1, dtype=np.float32), "utility.tokens of 1 or more"),
        ("utility.query_agnostic", -curves().query_aware, "query_agnostic to rise"),
        ("utility.query_aware", np.full((2, 2, len(FRACTIONS)), np.nan, np.float32), "to rise"),
    ],
)
def test_curves_that_are_none_are_refused(
    name: str, tensor: np.ndarray, said: str, tmp_path: Path
) -> None:
    path = tmp_path / FILE_NAME
    scores(utility=curves()).save(path)
    rewrite(path, header_of(path), **{name: tensor})
    with refused(f"not a valid run: .*{said}", kind=HeadprobeError):
        HeadScores.load(path)
    partly = {key: value for key, value in load_file(path).items() if key != name}
    save_file(partly, path, metadata={"headprobe": json.dumps(header_of(path))})
    with refused(f"it lacks '{name}'", kind=HeadprobeError):
        HeadScores.load(path)


def test_the_file_is_the_one_that_the_contract_describes(saved: Path) -> None:
    run = scores()
    tensors = load_file(saved)
    assert set(tensors) == {"r2", "r2.per_case", "mass", "mass.per_case"}
    for measure in run.measures:
        assert tensors[measure].dtype == tensors[f"{measure}.per_case"].dtype == np.float32
        assert tensors[f"{measure}.per_case"].shape == (6, 2, 4)
        for layer in range(2):
            for head in range(4):
                column = [float(run.per_case[measure][case, layer, head]) for case in range(6)]
                mean = np.float32(sum(column) / 6)
                assert tensors[measure][layer, head] == pytest.approx(mean, rel=1e-7)
    header = header_of(saved)
    assert header["format_version"] == 1
    assert header["model"] == {
        "id": "nano",
        "architecture": "LlamaForCausalLM",
        "layers": 2,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 8,
    }
    assert header["task"] == "r2"
    assert header["plan"] == PLAN
    assert (header["accepted"], header["cases"]) == (6, 8)
    assert header["versions"] == {"headprobe": "0.1.0", "torch": "2.13.0"}


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
def test_arrays_of_any_layout_and_precision_are_saved_right(
    tmp_path: Path, order: Any, kind: Any
) -> None:
    array = np.asarray(np.random.default_rng(0).random((6, 2, 4)), dtype=kind, order=order)
    view = np.flip(array, axis=0)
    scores(per_case={"r2": array, "mass": view}).save(tmp_path / FILE_NAME)
    tensors = load_file(tmp_path / FILE_NAME)
    np.testing.assert_array_equal(tensors["r2.per_case"], array.astype(np.float32))
    np.testing.assert_array_equal(tensors["mass.per_case"], view.astype(np.float32))


def test_the_mean_that_a_file_states_is_the_mean(saved: Path) -> None:
    # Half a rounding error of float32 away from that of the cases, as other programs' means are.
    stated = np.nextafter(scores().mean("r2"), np.float32(1))
    rewrite(saved, header_of(saved), r2=stated)
    run = HeadScores.load(saved)
    np.testing.assert_array_equal(run.mean("r2"), stated)
    np.testing.assert_array_equal(run.statistics("r2").mean, stated)
    run.save(saved)
    np.testing.assert_array_equal(load_file(saved)["r2"], stated)


@pytest.mark.parametrize(
    ("stated", "problem"),
    [
        (scores().mean("mass"), r"expected r2 to be the mean of r2\.per_case"),
        (np.full((2, 4), np.nan, dtype=np.float32), "got NaN or infinity in r2$"),
    ],
)
def test_a_mean_that_is_not_of_its_cases_is_a_clear_error(
    saved: Path, stated: np.ndarray, problem: str
) -> None:
    rewrite(saved, header_of(saved), r2=stated)
    with pytest.raises(HeadprobeError, match=problem):
        HeadScores.load(saved)


@pytest.mark.parametrize("header", [[], "r2", None])
def test_a_header_that_is_no_object_is_a_clear_error(saved: Path, header: Any) -> None:
    rewrite(saved, header)
    with pytest.raises(HeadprobeError, match='not a valid run: expected type "object", got'):
        HeadScores.load(saved)


def test_a_file_with_no_more_than_the_contract_asks_for_is_loaded(saved: Path) -> None:
    header = header_of(saved)
    asked = ["format_version", "model", "task", "plan", "accepted", "cases", "versions"]
    rewrite(saved, {name: header[name] for name in asked})
    run = HeadScores.load(saved)
    assert set(run.measures) == {"r2", "mass"}
    assert run.passed == 6
    np.testing.assert_array_equal(run.per_case["mass"], scores().per_case["mass"])


def test_nothing_to_load_is_a_usage_error_that_says_how_to_make_it(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "elsewhere"):
        with pytest.raises(UsageError, match=r"no scores at .*make them with `headprobe score`"):
            HeadScores.load(path)


def test_a_stopped_run_is_told_how_far_it_came(tmp_path: Path) -> None:
    report = {"status": "stopped", "observed": 6, "cases": 200}
    (tmp_path / "run.json").write_text(json.dumps(report))
    problem = "stopped after 6 of 200 cases; give the score command again to go on"
    for path in (tmp_path, tmp_path / FILE_NAME):
        with pytest.raises(UsageError, match=problem):
            HeadScores.load(path)


@pytest.mark.parametrize("report", ["{", "[]", '{"status": "stopped"}', '{"status": "complete"}'])
def test_a_report_that_tells_nothing_is_let_be(tmp_path: Path, report: str) -> None:
    (tmp_path / "run.json").write_text(report)
    with pytest.raises(UsageError, match="no scores at"):
        HeadScores.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("b.json", "is a budget or other JSON"), ("b.JSON", "is a"), ("heads.csv", "holds no scores")],
)
def test_a_file_of_another_kind_is_not_called_damaged(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / name).write_text('{"format": "headprobe-budget"}')
    problem = rf"{kind}.*; give a run directory or its scores\.safetensors"
    with pytest.raises(UsageError, match=problem):
        HeadScores.load(tmp_path / name)


@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.3, 0.99])
def test_a_truncated_file_is_a_clear_error(saved: Path, fraction: float) -> None:
    saved.write_bytes(saved.read_bytes()[: int(fraction * saved.stat().st_size)])
    problem = r"scores\.safetensors is damaged .*run `headprobe score` again"
    with pytest.raises(HeadprobeError, match=problem) as error:
        HeadScores.load(saved)
    assert error.value.exit_code == 1


def test_a_file_of_another_program_is_a_clear_error(tmp_path: Path) -> None:
    for metadata in (None, {"format": "pt"}):
        save_file({"r2": np.zeros((2, 4), dtype=np.float32)}, tmp_path / "other", metadata=metadata)
        with pytest.raises(HeadprobeError, match="was not written by headprobe"):
            HeadScores.load(tmp_path / "other")


def without(header: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in header.items() if key != name}


@pytest.mark.parametrize("name", ["format_version", "model", "task", "cases", "plan", "versions"])
def test_a_field_missing_from_the_header_is_named(saved: Path, name: str) -> None:
    rewrite(saved, without(header_of(saved), name))
    with pytest.raises(HeadprobeError, match=f"not a valid run: '{name}' is a required property"):
        HeadScores.load(saved)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"format_version": 2},
            "format_version: written by a newer headprobe",
        ),
        ({"measures": ["r2", "gone"]}, "it lacks 'gone.per_case'"),
        ({"needles": [0, 1]}, r"expected r2\.per_case of shape \(2, 2, 4\), got \(6, 2, 4\)"),
        ({"cases": 5}, "expected 1 to 5 passed cases, got 6"),
        (
            {"model": LAYOUT.to_json() | {"layers": 3}},
            r"expected r2\.per_case of shape \(6, 3, 4\)",
        ),
        ({"model": LAYOUT.to_json() | {"heads": 0}}, "model.heads: expected 1 or more, got 0"),
        ({"model": without(LAYOUT.to_json(), "heads")}, "model: 'heads' is a required property"),
        ({"model": 5}, 'model: expected type "object", got 5'),
        ({"task": 5}, 'task: expected type "string", got 5'),
        ({"cases": 8.5}, 'cases: expected type "integer", got 8.5'),
        ({"cases": True}, 'cases: expected type "integer", got true'),
        ({"plan": "x"}, 'plan: expected type "object", got "x"'),
        ({"plan": {"seed": "0"}}, 'plan.seed: expected type "integer", got "0"'),
        ({"plan": {"seed": -1}}, "plan.seed: expected 0 or more, got -1"),
        ({"plan": {"needles": 5}}, 'plan.needles: expected type "string", got 5'),
        ({"plan": {"needles_digest": "x"}}, 'plan.needles_digest: .*, got "x"'),
        ({"plan": {"lengths": [128, "256"]}}, r"plan.lengths\[1\]: expected type .*, got \"256\""),
        ({"plan": {"depths": [101]}}, r"plan.depths\[0\]: expected 100 or less, got 101"),
        ({"plan": {"decode": "guess"}}, 'plan.decode: expected one of .*, got "guess"'),
        ({"plan": {"prompt_style": None}}, "plan.prompt_style: .*, got null"),
        ({"plan": {"prompt_tried": {"passed": {}}}}, "plan.prompt_tried: 'prompts' is a required"),
        ({"plan": {"until_stable": float("nan")}}, "plan.until_stable: expected a finite number"),
        ({"versions": [1]}, r'versions: expected type "object", got \[1\]'),
        ({"needles": "abcdef"}, 'needles: expected type "array", got "abcdef"'),
        ({"needles": [0, 1, 2, 3, 4, "a"]}, r'needles\[5\]: expected type "integer", got "a"'),
        ({"needles": [-1] * 6}, r"needles\[0\]: expected 0 or more, got -1"),
        ({"measures": [["r2"]]}, r"measures\[0\]: expected type .*, got \[\"r2\"\]"),
        ({"files": {"heads.csv": "x"}}, r"files.heads.csv: expected a text like"),
    ],
)
def test_a_header_that_does_not_fit_is_a_clear_error(
    saved: Path, changes: dict[str, Any], problem: str
) -> None:
    rewrite(saved, header_of(saved) | changes)
    with pytest.raises(HeadprobeError, match=f"not a valid run: .*{problem}"):
        HeadScores.load(saved)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused_in_memory_and_in_files(saved: Path, bad: float) -> None:
    damaged = scores().per_case["mass"].copy()
    damaged[3, 1, 2] = bad
    with pytest.raises(ValueError, match=r"got NaN or infinity in mass\.per_case"):
        scores(per_case={"mass": damaged})
    rewrite(saved, header_of(saved), **{"mass.per_case": damaged})
    with pytest.raises(HeadprobeError, match=r"got NaN or infinity in mass\.per_case"):
        HeadScores.load(saved)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"per_case": {}}, "at least one measure"),
        ({"needles": (0,) * 5}, r"expected r2\.per_case of shape \(5, 2, 4\)"),
        ({"cases": 5}, "expected 1 to 5 passed cases, got 6"),
        (
            {"needles": (), "per_case": {"r2": np.zeros((0, 2, 4), dtype=np.float32)}},
            "expected 1 to 8 passed cases, got 0",
        ),
    ],
)
def test_scores_that_contradict_themselves_are_refused(
    changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        scores(**changes)


def test_a_measure_is_looked_up_by_name_the_tasks_own_by_default() -> None:
    run = scores()
    assert run.resolve(None) == "r2"
    assert run.resolve("mass") == "mass"
    with refused("holds r2, mass", option="measure", value="echo"):
        run.resolve("echo")


def plain_interval(values: list[float], needles: tuple[int, ...], seed: int) -> tuple[float, float]:
    """The interval of one head, in loops: draw whole needles with replacement, average, cut."""
    names = sorted(set(needles))
    groups = [[v for v, n in zip(values, needles, strict=True) if n == name] for name in names]
    if len(groups) == 1:
        groups = [[value] for value in values]
    draw = np.random.default_rng(seed)
    means = []
    for _ in range(2000):
        drawn = [groups[i] for i in draw.integers(len(groups), size=len(groups))]
        flat = [value for group in drawn for value in group]
        means.append(sum(flat) / len(flat))
    means.sort()
    return means[50], means[1949]


def statistics_of(per_case: np.ndarray, needles: tuple[int, ...]) -> HeadStatistics:
    run = scores(per_case={"r2": per_case}, needles=needles, cases=len(needles))
    return run.statistics("r2")


@settings(max_examples=20, deadline=None)
@given(cases=st.integers(1, 9), seed=st.integers(0, 99))
def test_mean_spread_and_rank_are_those_of_plain_loops(cases: int, seed: int) -> None:
    # Few different values, so that heads tie.
    per_case = np.random.default_rng(seed).integers(0, 3, (cases, 2, 4)).astype(np.float32)
    found = statistics_of(per_case, tuple(range(cases)))
    means = {}
    for layer in range(2):
        for head in range(4):
            column = [float(value) for value in per_case[:, layer, head]]
            mean = means[layer, head] = sum(column) / cases
            spread = (sum((v - mean) ** 2 for v in column) / max(1, cases - 1)) ** 0.5
            assert found.mean[layer, head] == pytest.approx(mean, rel=1e-6)
            assert found.std[layer, head] == pytest.approx(spread, abs=1e-7)
    ordered = sorted(means, key=lambda place: (-np.float32(means[place]), place))
    for rank, (layer, head) in enumerate(ordered, start=1):
        assert found.rank[layer, head] == rank


@pytest.mark.parametrize(
    "needles",
    [
        tuple(range(30)),
        tuple(case % 5 for case in range(30)),
        (0,) * 20 + (1,) * 5 + (2,) * 3 + (9,) * 2,
        (4,) * 30,
    ],
)
def test_the_interval_is_a_bootstrap_over_needles(needles: tuple[int, ...]) -> None:
    draw = np.random.default_rng(0)
    by_needle = {name: draw.random((2, 4)) for name in set(needles)}
    noise = draw.random((30, 2, 4))
    per_case = np.stack([by_needle[name] for name in needles]) + 0.3 * noise
    found = statistics_of(per_case.astype(np.float32), needles)
    for layer in range(2):
        for head in range(4):
            low, high = plain_interval(list(per_case[:, layer, head]), needles, seed=1)
            width = high - low
            # Two draws of a thousand and of two thousand differ by a share of the width.
            assert found.ci_low[layer, head] == pytest.approx(low, abs=0.12 * width)
            assert found.ci_high[layer, head] == pytest.approx(high, abs=0.12 * width)


def test_cases_of_one_needle_do_not_narrow_the_interval() -> None:
    values = np.random.default_rng(0).random((6, 2, 4)).astype(np.float32)
    once = statistics_of(values, tuple(range(6)))
    ten_times = statistics_of(
        np.repeat(values, 10, axis=0), tuple(np.repeat(range(6), 10).tolist())
    )
    np.testing.assert_allclose(ten_times.ci_low, once.ci_low, rtol=1e-6)
    np.testing.assert_allclose(ten_times.ci_high, once.ci_high, rtol=1e-6)


def test_the_seed_decides_the_interval_and_nothing_else() -> None:
    run = scores(30, needles=tuple(range(30)))
    one, same, other = (run.statistics("r2", seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.ci_low, same.ci_low)
    np.testing.assert_array_equal(one.ci_high, same.ci_high)
    assert (one.ci_low != other.ci_low).any()
    for name in ("mean", "std", "rank"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_one_case_has_no_spread_and_an_interval_of_a_point() -> None:
    found = statistics_of(np.full((1, 2, 4), 0.25, dtype=np.float32), (7,))
    for name in ("mean", "ci_low", "ci_high"):
        np.testing.assert_array_equal(getattr(found, name), np.full((2, 4), 0.25))
    np.testing.assert_array_equal(found.std, np.zeros((2, 4)))
    np.testing.assert_array_equal(found.rank, np.arange(1, 9).reshape(2, 4))


def test_reliability_is_over_the_needles_of_the_passed_cases() -> None:
    needles = tuple(case % 5 for case in range(30))
    run = scores(30, needles=needles)
    assert run.reliability("mass", seed=2) == split_half(run.per_case["mass"], needles, seed=2)
    assert run.reliability("mass") != run.reliability("r2")
    assert scores(30).reliability("r2").overlap is None


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300, -1e39])
def test_a_score_that_float32_cannot_hold_is_refused(value: float) -> None:
    numbers = np.ones((2, 3, 4))
    numbers[1, 2, 3] = value
    layout = HeadLayout(
        id="m", architecture="llama", layers=3, num_heads=4, num_kv_heads=2, head_dim=8
    )
    with pytest.raises(ValueError, match=r"NaN or infinity in r2\.per_case"):
        HeadScores(layout=layout, task="r2", per_case={"r2": numbers}, needles=(0, 1), cases=2)


def test_numbers_that_numpy_lacks_are_a_clear_error(saved: Path) -> None:
    header = header_of(saved)
    scores = torch.zeros(6, 2, 4, dtype=torch.bfloat16)
    save_tensors({"r2.per_case": scores}, saved, metadata={"headprobe": json.dumps(header)})
    with pytest.raises(HeadprobeError, match="expected float32 scores, got BF16"):
        HeadScores.load(saved)


@pytest.mark.parametrize("bug", [AttributeError, KeyError, TypeError])
def test_a_bug_of_reading_the_header_is_not_taken_for_damage(
    saved: Path, bug: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise bug("ours")

    monkeypatch.setattr("headprobe.scores.head_scores.parse_header", broken)
    for read in (HeadScores.load, lambda file: recorded_digests(file.parent)):
        with pytest.raises(bug, match="ours"):
            read(saved)

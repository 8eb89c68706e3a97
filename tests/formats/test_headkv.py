from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from headprobe.allocators import BudgetSize, allocate
from headprobe.errors import HeadprobeError, UsageError
from headprobe.formats import export_scores
from headprobe.formats.headkv import read
from headprobe.formats.import_run import KnownModel, import_run
from headprobe.scores import HeadScores

MakeRun = Callable[..., HeadScores]

FILES = {
    "copy": "headkv/Meta-Llama-3-8B-Instruct_retrieval_heads.json",
    "reason": "headkv/Meta-Llama-3-8B-Instruct_retrieval_reasoning_heads.json",
}
# Heads x cases, then sum, least and most as the readers compute them from the released files.
TABLES = {
    "copy": (107, (122875, 1, 6208), (131076, 2, 6575)),
    "reason": (74, (122867, 1, 1835), (131060, 2, 1944)),
}


def means_of(path: Path) -> list[float]:
    """What HeadKV's class and KVCache-Factory read: the first line, its lists averaged in order."""
    with open(path) as file:
        table = json.loads(file.readline())
    return [np.mean(cases) for cases in table.values()]


def capacities(
    means: list[float], layers: int, heads: int, *, budget: int, beta: float, window: int
) -> torch.Tensor:
    """What HeadKV's class makes of them; with a window of 0, what KVCache-Factory does."""
    fraction = torch.tensor(means / sum(means))
    fraction = torch.pow(fraction, 1.0)
    fraction = (fraction / torch.sum(fraction)).reshape(layers, heads)
    base = budget - window
    pool = (base // beta) * layers * heads
    return torch.round(fraction * pool + (base - base // beta)).int()


def summary(capacity: torch.Tensor) -> tuple[int, int, int]:
    return int(capacity.sum()), int(capacity.min()), int(capacity.max())


@pytest.mark.parametrize("kind", FILES)
def test_imported_scores_allocate_the_capacities_of_the_authors_class(
    kind: str, published: Path, tmp_path: Path
) -> None:
    import_run(published / FILES[kind], tmp_path, source="headkv", known=KnownModel(kv_heads=8))
    run = HeadScores.load(tmp_path)
    assert run.passed == TABLES[kind][0]
    with np.load(published / "headkv/llama3_capacities.npz", allow_pickle=False) as file:
        stored = {key: file[key] for key in file.files if f"-{kind}-" in key}
    assert len(stored) == 40
    for key, expected in stored.items():
        budget, beta = key.split("-")[2:]
        budgets = allocate(
            run.mean("headkv"),
            run.layout,
            budget=BudgetSize(tokens=int(budget)),
            beta=float(beta),
            granularity="query",
            rounding="reference",
        )
        assert np.array_equal(budgets.tokens - 8, expected), key


@pytest.mark.parametrize("kind", FILES)
def test_a_file_imported_and_exported_again_gives_its_readers_the_same_capacities(
    kind: str, published: Path, tmp_path: Path
) -> None:
    _, of_headkv, of_factory = TABLES[kind]
    import_run(published / FILES[kind], tmp_path / "run", source="headkv")
    out = tmp_path / "heads.json"
    export_scores(HeadScores.load(tmp_path / "run"), out, to="headkv")
    before, after = means_of(published / FILES[kind]), means_of(out)
    with np.load(published / "headkv/llama3_capacities.npz", allow_pickle=False) as file:
        for key in file.files:
            _, which, budget, beta = key.split("-")
            options = {"budget": int(budget), "beta": float(beta), "window": 8}
            if which == kind:
                theirs = capacities(after, 32, 32, **options)
                assert np.array_equal(theirs.numpy(), file[key]), key
    for means in (before, after):
        headkv = capacities(means, 32, 32, budget=128, beta=1.005, window=8)
        factory = capacities(means, 32, 32, budget=128, beta=1.01, window=0)
        assert (summary(headkv), summary(factory)) == (of_headkv, of_factory)
    for budget in (64, 128, 1024, 2048):
        options = {"budget": budget, "beta": 1.01, "window": 0}
        assert torch.equal(
            capacities(before, 32, 32, **options), capacities(after, 32, 32, **options)
        )


def test_the_retrieval_head_file_keeps_its_numbers(published: Path, tmp_path: Path) -> None:
    source = published / "retrieval_head/llama-2-7b-80k.json"
    import_run(source, tmp_path / "run", source="headkv")
    run = HeadScores.load(tmp_path / "run")
    export_scores(run, tmp_path / "heads.json", to="headkv")
    before, after = (json.loads(p.read_text()) for p in (source, tmp_path / "heads.json"))
    assert list(after) == list(before)
    assert {len(cases) for cases in after.values()} == {586}
    np.testing.assert_allclose(list(after.values()), list(before.values()), rtol=1e-6)
    means = np.mean(list(before.values()), axis=1).reshape(32, 32)
    np.testing.assert_allclose(run.mean("headkv"), means, rtol=1e-6)


def test_the_file_is_one_line_in_the_order_of_layers_and_heads(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run()
    assert export_scores(run, tmp_path / "heads.json", to="headkv") == ()
    content = (tmp_path / "heads.json").read_text()
    assert content.count("\n") == 0
    table = json.loads(content)
    assert list(table) == [f"{layer}-{head}" for layer in range(3) for head in range(8)]
    assert {len(cases) for cases in table.values()} == {5}
    np.testing.assert_allclose(
        np.array(list(table.values())).T.reshape(5, 3, 8), run.per_case["r2"], rtol=1e-6
    )


@pytest.mark.parametrize("budget", [64, 1024, 4096])
def test_readers_get_the_integers_that_allocate_gives(
    budget: int, make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run(np.random.default_rng(budget).random((90, 3, 8)).astype(np.float32) ** 9)
    export_scores(run, tmp_path / "heads.json", to="headkv")
    ours = allocate(
        run.mean("r2"),
        run.layout,
        budget=BudgetSize(tokens=budget),
        beta=1.005,
        granularity="query",
        rounding="reference",
    )
    theirs = capacities(
        means_of(tmp_path / "heads.json"), 3, 8, budget=budget, beta=1.005, window=8
    )
    assert np.array_equal(ours.tokens - 8, theirs.numpy())


def test_negative_scores_are_shifted_and_that_is_said(make_run: MakeRun, tmp_path: Path) -> None:
    cases = np.random.default_rng(1).normal(size=(4, 3, 8)).astype(np.float32)
    run = make_run(cases)
    notes = export_scores(run, tmp_path / "heads.json", to="headkv")
    assert "r2 has negative scores: all were shifted up by" in notes[0]
    values = np.array(list(json.loads((tmp_path / "heads.json").read_text()).values()))
    mean = run.mean("r2").astype(np.float64)
    np.testing.assert_allclose(values.reshape(3, 8), mean - mean.min())
    assert (
        capacities(means_of(tmp_path / "heads.json"), 3, 8, budget=128, beta=1.2, window=8).min()
        >= 0
    )


def test_negative_cases_of_means_that_are_not_leave_the_means(
    make_run: MakeRun, tmp_path: Path
) -> None:
    cases = np.full((2, 3, 8), 0.5, dtype=np.float32)
    cases[0, 1, 2] = -0.25
    notes = export_scores(make_run(cases), tmp_path / "heads.json", to="headkv")
    assert notes == ("cases are negative: the file holds one number a head, its mean",)
    table = json.loads((tmp_path / "heads.json").read_text())
    assert (table["0-0"], table["1-2"]) == ([0.5], [0.125])


def test_a_table_that_says_nothing_is_refused(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(HeadprobeError, match="all r2 scores are zero, so no head can be told"):
        export_scores(make_run(np.zeros((2, 3, 8))), tmp_path / "heads.json", to="headkv")
    with pytest.raises(HeadprobeError, match="are zero, so no head can be told"):
        export_scores(make_run(np.full((2, 3, 8), -1.0)), tmp_path / "heads.json", to="headkv")
    assert not (tmp_path / "heads.json").exists()


def read_text(tmp_path: Path, text: str, **size: int | None) -> np.ndarray:
    path = tmp_path / "heads.json"
    path.write_text(text)
    table = read(path, **{"layers": None, "heads": None} | size)
    return table.per_case["headkv"]


def test_every_spelling_of_the_table_is_read(tmp_path: Path) -> None:
    expected = [[[0.1, 0.2]], [[0.3, 0.4]]]
    scalars = {"0-0": 0.1, "0-1": 0.2}
    for document, cases in [
        (scalars, expected[:1]),
        ({"0-0": [0.1, 0.3], "0-1": [0.2, 0.4]}, expected),
        ({"meta": {"model": "m"}, "scores": {"0-0": [0.1, 0.3], "0-1": [0.2, 0.4]}}, expected),
        ([["0-1", 0.2], ["0-0", 0.1]], expected[:1]),
    ]:
        for indent in (None, 2):
            assert read_text(tmp_path, json.dumps(document, indent=indent)).tolist() == cases


def test_runs_appended_to_a_file_are_read_as_one(tmp_path: Path) -> None:
    path = tmp_path / "heads.json"
    path.write_text('{"0-0": [0.1], "0-1": [0.2]}\n{"0-0": [0.3], "0-1": [0.4]}\n')
    table = read(path, layers=None, heads=None)
    assert table.per_case["headkv"].tolist() == [[[0.1, 0.2]], [[0.3, 0.4]]]
    assert table.notes == ("2 tables were appended and are read as one; HeadKV reads the first",)


def test_heads_are_read_by_name_and_a_wrong_order_is_said(tmp_path: Path) -> None:
    path = tmp_path / "heads.json"
    names = [f"0-{head}" for head in range(12)]
    path.write_text(json.dumps({name: float(name[2:]) for name in names}, sort_keys=True))
    table = read(path, layers=1, heads=12)
    assert table.per_case["headkv"].ravel().tolist() == list(range(12))
    assert "readers that go by order take them wrongly" in table.notes[0]


def test_lists_of_unequal_length_are_averaged_each_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "heads.json"
    path.write_text('{"0-0": [0.1, 0.3], "0-1": [0.5]}')
    table = read(path, layers=None, heads=None)
    assert table.per_case["headkv"].tolist() == [[[0.2, 0.5]]]
    assert table.notes == ("heads have 1 to 2 cases: only their means are taken",)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "it is empty"),
        ('{"0-0": [0.1], "0-1"', "not JSON, or cut short"),
        ("[1, 2]", "expected pairs"),
        ("3", "expected an object or a list of pairs"),
        ("{}", "it names no head"),
        ('{"0-0": [0.1], "meta": "x"}', "'meta' names no head"),
        ('{"0-0": []}', "0-0 has no score"),
        ('{"0-0": [1], "0-0": [2]}', "key '0-0' is given twice"),
        ('{"0-0": [1], "0-00": [2]}', "a head is named twice"),
        ('{"998-998": 1}', "32,768 heads are the most"),
        ('{"scores": {"0-0": 1}, "meta": {"a": NaN}}', "not JSON compliant"),
        ('{"scores": {"0-0": 1}, "meta": {"a": "' + "x" * 100_000 + '"}}', "of other things"),
        ("0 " * 10_001, "more than 10,000 JSON documents"),
        ("[" * 100_000, "nested too deeply"),
        ('{"0-0": ["a"]}', "expected a number, got 'a'"),
        ('{"0-0": [true]}', "expected a number, got True"),
        ('{"0-0": [null]}', "expected a number, got None"),
        ('{"0-0": [NaN]}', "layer 0, head 0 of headkv: expected finite float32 numbers, got nan"),
        ('{"0-0": [1e999]}', "got inf"),
        ('{"0-0": [1e300]}', "expected finite float32 numbers, got 1e+300"),
        (f'{{"0-0": [1{"0" * 400}]}}', "a number of 401 digits"),
        ('{"0-0": [1], "1-1": [1]}', "it lacks 0-1 of 2 layers of 2 heads"),
        ('{"0-0": 1, "999999-0": 1}', "names layer 999999 and head 0"),
        ('[["0-0", 1], ["0-0", 2]]', "named twice"),
    ],
)
def test_a_file_of_another_kind_is_one_clear_line(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "heads.json").write_text(text)
    with pytest.raises(HeadprobeError, match="is not a valid headkv file: ") as error:
        import_run(tmp_path / "heads.json", tmp_path / "run", source="headkv")
    assert problem in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names layer 1 and head 0; expected 1 layers of 2 heads"):
        read_text(tmp_path, '{"0-0": 1, "1-0": 1}', layers=1, heads=2)
    with pytest.raises(ValueError, match="it lacks 0-1 of 1 layers of 2 heads"):
        read_text(tmp_path, '{"0-0": 1}', layers=1, heads=2)


def test_a_budget_is_no_table_of_scores(make_budget: Callable[..., object]) -> None:
    from headprobe.formats import export_budget

    with pytest.raises(UsageError, match="format headkv holds scores, not budgets"):
        export_budget(make_budget(), Path("heads.json"), to="headkv")

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from headprobe.budgets import HeadBudgets
from headprobe.errors import HeadprobeError, UsageError
from headprobe.models.layout import HeadLayout
from headprobe.runs.directory import CASES
from headprobe.scores import FILE_NAME, HeadScores
from headprobe.scores.tables import write_table
from tests._support.command_line import Done, headprobe, refusal
from tests._support.refusals import facts

LAYOUT = HeadLayout(
    id="tiny", architecture="LlamaForCausalLM", layers=2, num_heads=4, num_kv_heads=2, head_dim=8
)
Drawn = list[Any]
PNG = b"\x89PNG\r\n\x1a\n"


def plot(*arguments: str | Path) -> Done:
    return headprobe("plot", *arguments)


def make_run(directory: Path, *, with_cases: bool = True) -> Path:
    directory.mkdir(parents=True)
    generator = np.random.default_rng(0)
    HeadScores(
        layout=LAYOUT,
        task="retrieval",
        per_case={
            "retrieval": generator.random((3, 2, 4), dtype=np.float32),
            "mass": generator.random((3, 2, 4), dtype=np.float32),
        },
        needles=(0, 1, 2),
        cases=4,
    ).save(directory / FILE_NAME)
    if with_cases:
        write_cases(directory, passed=[True, True, False, True])
    return directory


def write_cases(run: Path, *, passed: list[bool]) -> None:
    count = len(passed)
    table = pd.DataFrame(
        {
            "case_id": range(count),
            "needle_id": range(count),
            "length": 128,
            "depth": np.linspace(0, 100, count),
            "position": 3,
            "success": [100.0 * a for a in passed],
            "accepted": passed,
        }
    )
    write_table(table, run / CASES)


def make_budget(path: Path) -> Path:
    HeadBudgets(
        layout=LAYOUT,
        strategy={"name": "uniform", "budget": 128},
        granularity="kv",
        window=8,
        sinks=0,
        compensation=False,
        selection=np.full((2, 2), "attention"),
        tokens=np.full((2, 2), 128),
        ratio=np.zeros((2, 2)),
    ).save(path)
    return path


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """What would be drawn, without the time that drawing takes."""
    items: Drawn = []
    monkeypatch.setattr("headprobe.plots.draw", items.extend)
    monkeypatch.setattr("headprobe.plots.save", lambda figure, path: path.write_bytes(PNG))
    return items


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands look for outputs/ where they are started."""
    monkeypatch.chdir(tmp_path)


def test_without_files_the_newest_run_is_drawn_beside_its_newest_budget(tmp_path: Path) -> None:
    old, new = make_run(tmp_path / "outputs/m/r2"), make_run(tmp_path / "outputs/m/retrieval")
    os.utime(old / FILE_NAME, (1, 1))
    make_budget(new / "budget-uniform-64.json")
    os.utime(new / "budget-uniform-64.json", (1, 1))
    make_budget(new / "budget-uniform-128.json")
    result = plot()
    assert result.returncode == 0, result.stderr
    assert result.stdout == "outputs/m/retrieval/heads.png\n"
    assert "outputs/m/retrieval and outputs/m/retrieval/budget-uniform-128.json" in result.stderr
    assert (new / "heads.png").read_bytes().startswith(PNG)
    assert not (old / "heads.png").exists()


def test_without_files_and_without_a_budget_the_run_is_drawn_alone(drawn: Drawn) -> None:
    make_run(Path("outputs/m/r2"))
    result = plot()
    assert len(drawn) == 1
    assert result.stdout == "outputs/m/r2/heads.png\n"
    assert "drawing outputs/m/r2\nnext: headprobe allocate outputs/m/r2 " in result.stderr


def test_without_any_run_it_says_how_to_make_one() -> None:
    error = refusal("plot")
    assert isinstance(error, UsageError)
    assert "headprobe score" in str(error)


def test_a_run_may_be_named_by_its_scores_and_needs_no_cases(tmp_path: Path, drawn: Drawn) -> None:
    run = make_run(tmp_path / "imported", with_cases=False)
    result = plot(run / FILE_NAME)
    assert result.stdout == f"{run / 'heads.png'}\n"
    assert result.stderr == f"next: headprobe allocate {run / FILE_NAME} --budget 128\n"
    assert drawn[0].cases is None


def test_a_budget_is_drawn_beside_itself_under_its_name(tmp_path: Path, drawn: Drawn) -> None:
    budget = make_budget(tmp_path / "mine-1.5.json")
    result = plot(budget)
    assert result.stdout == f"{tmp_path / 'mine-1.5.png'}\n"
    assert result.stderr.endswith(f" --budget {budget}\n")
    assert (tmp_path / "mine-1.5.png").read_bytes().startswith(PNG)


@pytest.mark.slow
def test_several_files_go_into_one_picture_of_the_wanted_format(tmp_path: Path) -> None:
    run, budget = make_run(tmp_path / "run"), make_budget(tmp_path / "b.json")
    result = plot(run, budget, run / FILE_NAME, "--out", tmp_path / "new/all.svg")
    assert result.stdout == f"{tmp_path / 'new/all.svg'}\n"
    assert b"<svg" in (tmp_path / "new/all.svg").read_bytes()
    assert not (run / "heads.png").exists()


def test_the_measure_can_be_chosen(tmp_path: Path, drawn: Drawn) -> None:
    run = make_run(tmp_path / "run")
    plot(run)
    plot(run, "--measure", "mass")
    assert [picture.measure for picture in drawn] == ["retrieval", "mass"]
    assert [len(picture.cases) for picture in drawn] == [4, 4]
    error = refusal("plot", run, "--measure", "echo")
    assert isinstance(error, UsageError)
    assert facts(error) == {"option": "measure", "value": "echo"}
    assert "holds retrieval, mass" in error.message


@pytest.mark.parametrize("name", ["none", "none.json", "none.safetensors", "heads.csv"])
def test_a_file_that_is_missing_or_of_no_known_kind_is_wrong_usage(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "heads.csv").write_text("layer,head\n")
    error = refusal("plot", tmp_path / name)
    assert isinstance(error, UsageError)
    assert facts(error) == {"path": tmp_path / name}
    assert name in str(error)


@pytest.mark.parametrize("name", ["scores.safetensors", "budget.json", "cases.parquet"])
def test_a_damaged_file_is_one_clear_error(tmp_path: Path, name: str) -> None:
    run = make_run(tmp_path / "run")
    (run / name).write_bytes(b"{nonsense")
    error = refusal("plot", run / name if name.endswith("json") else run)
    assert type(error) is HeadprobeError
    assert facts(error) == {"path": run / name}
    assert name in str(error)


def test_cases_of_another_run_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    write_cases(run, passed=[True] * 4)
    error = refusal("plot", run)
    assert type(error) is HeadprobeError
    assert facts(error) == {"path": run}
    assert "different runs" in str(error)
    assert "4 cases with 3 passed, got 4 with 4" in str(error)


def test_a_suffix_that_is_no_picture_is_wrong_usage(tmp_path: Path) -> None:
    error = refusal("plot", make_budget(tmp_path / "b.json"), "--out", tmp_path / "heads.jpg")
    assert isinstance(error, UsageError)
    assert facts(error) == {"path": tmp_path / "heads.jpg"}
    assert ".png, .svg or .pdf" in str(error)

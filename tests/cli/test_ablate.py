from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from headprobe.errors import UsageError
from headprobe.models.layout import HeadLayout
from headprobe.runs.directory import CASES
from headprobe.scores import FILE_NAME, HeadScores
from headprobe.scores.tables import write_table
from tests._support.command_line import Done, headprobe, refusal
from tests._support.refusals import facts

NANO = HeadLayout(
    id="nano", architecture="llama", layers=6, num_heads=8, num_kv_heads=4, head_dim=32
)
SMALL = (
    "--top-k",
    "1,4",
    "--random-draws",
    "2",
    "--lengths",
    "128",
    "--limit",
    "3",
    "--device",
    "cpu",
)


def ablate(*arguments: str) -> Done:
    return headprobe("ablate", *arguments, columns=200)


def make_run(
    directory: Path, *measures: str, task: str = "r2", layout: HeadLayout = NANO
) -> HeadScores:
    generator = np.random.default_rng(len(measures))
    scores = generator.random((2, layout.layers, layout.num_heads), dtype=np.float32)
    scores[:, -2] += 1
    run = HeadScores(
        layout=layout,
        task=task,
        per_case={name: scores + i for i, name in enumerate(measures)},
        needles=(0, 1),
        cases=2,
        plan={"seed": 0},
    )
    run.save(directory / FILE_NAME)
    scored = pd.DataFrame({"position": [0], "input_ids": [[1, 2, 3]]})
    write_table(scored, directory / CASES)
    return run


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands look for outputs/ where they are started."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_the_newest_run_is_ablated_and_everything_written(tmp_path: Path) -> None:
    make_run(Path("outputs/nano/r2"), "r2")
    done = ablate(*SMALL, "--json")
    assert done.returncode == 0, done.stderr
    told = done.json()
    folder = tmp_path / "outputs" / "nano" / "ablate-r2"
    assert str(folder.relative_to(tmp_path)) in done.stderr
    assert {path.name for path in folder.iterdir()} == {
        "ablation.csv",
        "ablation.json",
        "ablation.png",
        "progress.sqlite",
    }
    report = json.loads((folder / "ablation.json").read_text())
    assert {name: report[name] for name in told} == told
    assert (folder / "ablation.png").read_bytes().startswith(b"\x89PNG")
    (curve,) = told["curves"]
    assert curve["top_k"] == [1, 4]
    table = pd.read_csv(folder / "ablation.csv")
    assert table["accuracy"].tolist() == [
        point["value"] for choice in ("top", "random", "bottom") for point in curve[choice]
    ]
    (folder / "ablation.png").unlink()
    shown = " ".join(ablate(*SMALL).stdout.split())
    assert (folder / "ablation.png").is_file()
    assert f"{told['accuracy']['value']:.1f} with none; 3 cases" in shown
    area = curve["area"]
    assert f"{area['value']:.2f} ({area['ci_low']:.2f} to {area['ci_high']:.2f})" in shown
    assert [f"{point['value']:.1f}" for point in curve["bottom"]] == shown.split("bottom")[
        1
    ].replace("│", " ").split()[:2]


@pytest.mark.slow
def test_measures_come_from_several_runs() -> None:
    make_run(Path("a"), "r2", "mass")
    make_run(Path("b"), "retrieval", task="retrieval")
    done = ablate(
        "a", "--scores", "b", "--measures", "retrieval,r2", "--out", "c", *SMALL, "--json"
    )
    assert done.returncode == 0, done.stderr
    told = done.json()
    assert {curve["measure"] for curve in told["curves"]} == {"retrieval", "r2"}
    assert told["task"] == "r2"
    assert told["plan"]["runs"] == ["a", "b"]
    assert Path("c/ablation.csv").is_file()


@pytest.mark.parametrize(
    ("arguments", "wrong", "message"),
    [
        (["missing"], {"path": Path("missing")}, "no scores"),
        (
            ["a", "--measures", "r2,locos"],
            {"option": "measures", "value": "locos"},
            "`measures=locos`",
        ),
        (
            ["a", "--measures", "retrieval"],
            {"option": "measures", "value": "retrieval"},
            "`task=retrieval`",
        ),
        (["a", "--top-k", "30"], {"option": "top_k", "value": 30}, "at most 24"),
        (["a", "--top-k", "two"], {"option": "top_k", "value": "two"}, "as in 1,2,4,8"),
        (["a", "--task", "alibi"], {"option": "task", "value": "alibi"}, "r2, retrieval"),
        (["other"], {"option": "model", "value": "nano"}, "is of tiny and the model of nano"),
        ([], {"path": Path("outputs")}, "headprobe score"),
    ],
)
def test_wrong_usage_is_one_clear_line(
    arguments: list[str], wrong: dict[str, Any], message: str
) -> None:
    make_run(Path("a"), "r2")
    layout = HeadLayout(
        id="tiny", architecture="x", layers=2, num_heads=4, num_kv_heads=2, head_dim=8
    )
    make_run(Path("other"), "r2", layout=layout)
    error = refusal("ablate", *arguments, "--device", "cpu", "--lengths", "128")
    assert isinstance(error, UsageError)
    assert facts(error) == wrong
    assert message in error.message

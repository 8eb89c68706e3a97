from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from headprobe.models.layout import HeadLayout
from headprobe.runs.directory import CASES
from headprobe.scores import FILE_NAME, HeadScores
from tests._support.command_line import Done, headprobe

LAYOUT = HeadLayout(
    id="tiny", architecture="LlamaForCausalLM", layers=2, num_heads=8, num_kv_heads=2, head_dim=8
)


def show(*arguments: str | Path) -> Done:
    return headprobe("show", *arguments, columns=200)


def make_run(directory: Path, *, needles: int) -> HeadScores:
    generator = np.random.default_rng(0)
    run = HeadScores(
        layout=LAYOUT,
        task="r2",
        per_case={name: generator.random((24, 2, 8), dtype=np.float32) for name in ("r2", "mass")},
        needles=tuple(case % needles for case in range(24)),
        cases=30,
    )
    run.save(directory / FILE_NAME)
    return run


def test_what_to_do_next_stands_beside_the_table_not_in_it(tmp_path: Path) -> None:
    make_run(tmp_path, needles=8)
    shown = show(tmp_path)
    assert shown.stderr.endswith(f"next: headprobe allocate {tmp_path} --budget 128\n")
    assert "next" not in shown.stdout


@pytest.mark.parametrize("measure", ["r2", "mass"])
def test_json_gives_the_reliability_of_the_measure_that_is_shown(
    tmp_path: Path, measure: str
) -> None:
    run = make_run(tmp_path, needles=8)
    result = show(tmp_path, "--measure", measure, "--seed", "3", "--json")
    shown = result.json()["reliability"]
    assert shown == run.reliability(measure, seed=3).to_json()
    assert shown["needles"] == 8


def test_the_table_says_how_firm_the_ranking_is(tmp_path: Path) -> None:
    found = make_run(tmp_path, needles=8).reliability("r2")
    assert found.rank_correlation
    shown = " ".join(show(tmp_path).stdout.split())
    assert "HeadKV-R2 of the top 16 of 16 heads" in shown
    value, low = found.rank_correlation.value, found.rank_correlation.ci_low
    assert f"split-half reliability over 8 needles {value:.2f} ({low:.2f} to " in shown
    assert "top 2 of halves overlap by " in shown


def test_the_pass_rate_of_each_kind_is_shown(tmp_path: Path) -> None:
    make_run(tmp_path, needles=8)
    assert "by kind" not in show(tmp_path).stdout
    assert show(tmp_path, "--json").json()["kinds"] == []
    kinds = ["one-hop"] * 10 + ["counting"] * 20
    passed = [True] * 9 + [False] + [True] * 15 + [False] * 5
    rows = {"needle_id": range(30), "kind": kinds, "accepted": passed}
    pd.DataFrame(rows).to_parquet(tmp_path / CASES)
    shown = [line.replace("│", " ").split() for line in show(tmp_path).stdout.splitlines()]
    assert ["one-hop", "10", "9", "90%"] in shown
    assert ["counting", "20", "15", "75%"] in shown
    assert show(tmp_path, "--json").json()["kinds"] == [
        {"kind": "one-hop", "cases": 10, "passed": 9, "fraction": 0.9},
        {"kind": "counting", "cases": 20, "passed": 15, "fraction": 0.75},
    ]


def test_too_few_needles_are_said_to_be_too_few(tmp_path: Path) -> None:
    make_run(tmp_path, needles=3)
    shown = " ".join(show(tmp_path).stdout.split())
    assert "reliability of the ranking unknown: it takes 4 needles, passed cases have 3" in shown
    reliability = show(tmp_path, "--json").json()["reliability"]
    assert reliability == {"needles": 3, "k": 2, "rank_correlation": None, "overlap": None}

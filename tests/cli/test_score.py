"""``headprobe score``: what it takes, several processes, stopping early."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

GRID = ["--lengths", "128,256", "--depths", "0,50,100", "--limit", "24"]


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd,
        env=os.environ | {"COLUMNS": "120", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


TWO = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    done = run("headprobe", "score", *GRID, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "outputs" / "nano" / "r2"


def check_same_run(one: Path, other: Path) -> None:
    for name, values in load_file(one / "scores.safetensors").items():
        np.testing.assert_array_equal(load_file(other / "scores.safetensors")[name], values)
    pd.testing.assert_frame_equal(
        pd.read_parquet(one / "cases.parquet"), pd.read_parquet(other / "cases.parquet")
    )


def test_two_processes_make_the_run_of_one_bit_for_bit(alone: Path, tmp_path: Path) -> None:
    done = run(*TWO, "headprobe", "score", *GRID, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    together = tmp_path / "outputs" / "nano" / "r2"
    check_same_run(alone, together)
    report = json.loads((together / "run.json").read_text())
    assert (report["status"], report["processes"]) == ("complete", 2)
    assert not list(together.glob("progress.*.sqlite"))
    assert done.stdout.count("cases accepted") == 1


def test_a_device_map_changes_nothing(alone: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    done = run("headprobe", "score", *GRID, "--device-map", "auto", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    check_same_run(alone, tmp_path / "outputs" / "nano" / "r2")


def test_killed_processes_resume_with_another_number(tmp_path: Path) -> None:
    longer = ["--lengths", "600,900", "--depths", "0,50,100", "--limit", "40"]
    script = str(Path(__file__).parents[1] / "signalled.py")
    killed = run(*TWO[:-1], script, "SIGKILL", "3", "score", *longer, cwd=tmp_path)
    assert "Signal 9" in killed.stderr
    together = tmp_path / "outputs" / "nano" / "r2"
    assert (together / "progress.1.sqlite").is_file()
    assert not (together / "scores.safetensors").exists()
    done = run("headprobe", "score", *longer, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((together / "run.json").read_text())["resumed_from"] == 6
    assert not list(together.glob("progress.*.sqlite"))
    whole = run("headprobe", "score", *longer, "--out", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    check_same_run(tmp_path / "whole", together)


def test_a_dry_run_says_what_a_run_takes_and_writes_nothing(tmp_path: Path) -> None:
    done = run("headprobe", "score", *GRID, "--dry-run", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    cost = json.loads(done.stdout)
    assert cost["cases"] == 24
    assert cost["prompt_tokens"] == 12 * 128 + 12 * 256
    assert cost["saving"] == cost["prompt_tokens"] / cost["distinct_tokens"] > 1.2
    # Keys and values, layers, KV heads, dimensions, bytes; the prompt and its answer.
    assert cost["cache"] // (2 * 6 * 4 * 32 * 4) in range(257, 265)
    assert cost["peak"] == cost["weights"] + cost["cache"] + 2**30
    assert not list(tmp_path.iterdir())
    table = run("headprobe", "score", *GRID, "--dry-run", cwd=tmp_path)
    assert f"{cost['distinct_tokens']:,}" in table.stdout


def test_forced_decoding_counts_every_case(tmp_path: Path) -> None:
    done = run("headprobe", "score", *GRID, "--decode", "forced", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    cases = pd.read_parquet(tmp_path / "outputs" / "nano" / "r2" / "cases.parquet")
    assert cases["accepted"].all()
    assert [*map(list, cases["generated_ids"])] == [*map(list, cases["answer_ids"])]
    report = json.loads((tmp_path / "outputs" / "nano" / "r2" / "run.json").read_text())
    assert report["decode"] == "forced"


def test_a_run_stops_when_the_ranking_is_reliable(tmp_path: Path) -> None:
    grid = ["--lengths", "128,160", "--depths", "0,50,100", "--task", "retrieval"]
    done = run("headprobe", "score", *grid, "--until-stable", "0.01", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "outputs" / "nano" / "retrieval"
    report = json.loads((folder / "run.json").read_text())
    assert report["status"] == "stable"
    assert report["observed"] == len(pd.read_parquet(folder / "cases.parquet")) < report["cases"]
    # Whole rounds, in each of which every needle is met once.
    assert report["observed"] % 24 == 0
    reliability = report["reliability"]["retrieval"]
    assert min(reliability[name]["ci_low"] for name in ("rank_correlation", "overlap")) > 0.01
    again = run("headprobe", "score", *grid, "--until-stable", "0.01", cwd=tmp_path)
    assert again.returncode == 0
    assert json.loads((folder / "run.json").read_text())["observed"] == report["observed"]


ALL = ["r2", "retrieval", "semantic", "mass", "contrast", "locos", "qr"]


def test_all_measures_land_in_the_run_and_any_can_be_picked(alone: Path, tmp_path: Path) -> None:
    done = run("headprobe", "score", *GRID, "--measures", "all", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "also: retrieval, semantic, mass, contrast, locos, qr" in done.stderr
    folder = tmp_path / "outputs" / "nano" / "r2"
    tensors = load_file(folder / "scores.safetensors")
    assert tensors.keys() == {*ALL, *(f"{name}.per_case" for name in ALL)}
    np.testing.assert_allclose(
        tensors["r2"], load_file(alone / "scores.safetensors")["r2"], atol=1e-5
    )
    heads = pd.read_csv(folder / "heads.csv")
    assert heads["measure"].unique().tolist() == ALL
    assert len(heads) == len(ALL) * 48
    report = json.loads((folder / "run.json").read_text())
    assert report["plan"]["measures"] == ALL
    assert list(report["reliability"]) == ALL
    for name in ("locos", "qr"):
        shown = run("headprobe", "show", "--measure", name, "--json", cwd=tmp_path)
        best = json.loads(shown.stdout)["heads"][0]
        assert best["score"] == pytest.approx(tensors[name].max(), rel=1e-5)
    for command in (
        ["allocate", "--measure", "mass"],
        ["allocate", "--measure", "locos", "--strategy", "top", "--heads", "4"],
        ["plot", "--measure", "contrast"],
        ["compare", "--measure", "r2", "--measure", "qr"],
    ):
        done = run("headprobe", *command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    signed = run("headprobe", "allocate", "--measure", "locos", cwd=tmp_path)
    assert signed.returncode == 1
    assert "take --strategy top or duo" in signed.stderr


def test_a_run_with_other_measures_is_another_run(alone: Path) -> None:
    done = run("headprobe", "score", *GRID, "--measures", "qr", cwd=alone.parents[2])
    assert done.returncode == 2
    assert 'measures was ["r2"], now ["qr"]' in done.stderr


def test_a_dry_run_counts_the_questions_that_ask_nothing(tmp_path: Path) -> None:
    costs = [
        json.loads(
            run("headprobe", "score", *GRID, *more, "--dry-run", "--json", cwd=tmp_path).stdout
        )
        for more in ([], ["--measures", "mass,locos"], ["--measures", "r2,qr"])
    ]
    assert costs[0] == costs[1]
    assert 0 < costs[2]["distinct_tokens"] - costs[0]["distinct_tokens"] < 24 * 32
    assert costs[2]["prompt_tokens"] > 1.5 * costs[0]["prompt_tokens"]


def test_measures_are_listed_with_the_tasks_that_take_them(tmp_path: Path) -> None:
    listed = run("headprobe", "list", "measures", "--json", cwd=tmp_path)
    rows = {row["measure"]: row for row in json.loads(listed.stdout)}
    assert set(ALL) <= set(rows)
    assert rows["qr"]["tasks"] == "r2, retrieval"
    assert "LOCOS" in rows["locos"]["what it is"]
    assert rows["alibi"]["tasks"] == "alibi"
    told = [row["what it is"] for row in rows.values()]
    assert all(told)
    assert len(set(told)) == len(told)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--measures", "r2,eco"], "no measure 'eco' for this task; there are r2, retrieval"),
        (["--task", "alibi", "--measures", "r2"], "task alibi has no cases: leave out --measures"),
        (["--memory-allowance", "lots"], "'lots' is no amount of memory; write it as 1GiB"),
        (["--until-stable", "1.5"], "--until-stable lies between 0 and 1, got 1.5"),
        (["--device-map", "wild"], "no device map 'wild'; choose auto"),
        (["--device", "cpu", "--device-map", "auto"], "exclude each other"),
    ],
)
def test_bad_options_are_one_line(tmp_path: Path, options: list[str], message: str) -> None:
    done = run("headprobe", "score", *GRID, *options, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1

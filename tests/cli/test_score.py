"""``headprobe score``: what it takes, several processes, stopping early."""

from __future__ import annotations

import json
import signal
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from headprobe.errors import UsageError
from headprobe.runs.distributed import Processes
from tests._support.command_line import headprobe, refusal, succeed, torchrun
from tests._support.forks import forked
from tests._support.stopped import stop_after

GRID = ["--lengths", "128,256", "--depths", "0,50,100", "--limit", "24"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of a process alone; it is for all tests of this file, so look only."""
    folder = tmp_path_factory.mktemp("alone")
    succeed("score", *GRID, cwd=folder)
    return folder / "outputs" / "nano" / "r2"


def check_same_run(one: Path, other: Path) -> None:
    for name, values in load_file(one / "scores.safetensors").items():
        np.testing.assert_array_equal(load_file(other / "scores.safetensors")[name], values)
    pd.testing.assert_frame_equal(
        pd.read_parquet(one / "cases.parquet"), pd.read_parquet(other / "cases.parquet")
    )


@pytest.mark.slow
def test_two_processes_make_the_run_of_one_bit_for_bit(alone: Path, tmp_path: Path) -> None:
    done = torchrun("score", *GRID, "--keep-rows", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    together = tmp_path / "outputs" / "nano" / "r2"
    check_same_run(alone, together)
    report = json.loads((together / "run.json").read_text())
    assert (report["status"], report["processes"]) == ("complete", 2)
    assert not list(together.glob("progress.*.sqlite"))
    assert done.stdout.count("cases passed") == 1
    # Resumed by one process, with nothing left to observe.
    rows = (together / "rows.safetensors").read_bytes()
    succeed("score", *GRID, "--keep-rows", "2", cwd=tmp_path)
    assert (together / "rows.safetensors").read_bytes() == rows


@pytest.mark.slow
def test_a_device_map_changes_nothing(alone: Path, tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    succeed("score", *GRID, "--device-map", "auto", cwd=tmp_path)
    check_same_run(alone, tmp_path / "outputs" / "nano" / "r2")


@pytest.mark.slow
def test_killed_processes_resume_with_another_number(alone: Path, tmp_path: Path) -> None:
    stop = partial(stop_after, 3, "SIGKILL")
    killed = forked("score", *GRID, cwd=tmp_path, count=2, first=stop)
    assert [one.returncode for one in killed] == [-signal.SIGKILL] * 2
    together = tmp_path / "outputs" / "nano" / "r2"
    assert (together / "progress.1.sqlite").is_file()
    assert not (together / "scores.safetensors").exists()
    succeed("score", *GRID, cwd=tmp_path)
    assert json.loads((together / "run.json").read_text())["resumed_from"] == 6
    assert not list(together.glob("progress.*.sqlite"))
    check_same_run(alone, together)


def test_a_dry_run_says_what_a_run_takes_and_writes_nothing(tmp_path: Path) -> None:
    done = succeed("score", *GRID, "--dry-run", "--json", cwd=tmp_path)
    cost = done.json()
    assert cost["cases"] == 24
    assert cost["prompt_tokens"] == 12 * 128 + 12 * 256
    assert cost["saving"] == cost["prompt_tokens"] / cost["unique_tokens"] > 1.2
    # Keys and values, layers, KV heads, dimensions, bytes; the prompt and its answer.
    assert cost["cache"] // (2 * 6 * 4 * 32 * 4) in range(272, 290)
    assert cost["peak"] == cost["weights"] + cost["cache"] + 2**30
    assert not list(tmp_path.iterdir())
    table = headprobe("score", *GRID, "--dry-run", cwd=tmp_path)
    assert f"{cost['unique_tokens']:,}" in table.stdout


@pytest.mark.slow
def test_forced_decoding_counts_every_case(tmp_path: Path) -> None:
    succeed("score", *GRID, "--decode", "forced", cwd=tmp_path)
    cases = pd.read_parquet(tmp_path / "outputs" / "nano" / "r2" / "cases.parquet")
    assert cases["accepted"].all()
    assert [*map(list, cases["generated_ids"])] == [*map(list, cases["answer_ids"])]
    report = json.loads((tmp_path / "outputs" / "nano" / "r2" / "run.json").read_text())
    assert report["decode"] == "forced"


@pytest.mark.slow
def test_a_run_stops_when_the_ranking_is_reliable(tmp_path: Path) -> None:
    grid = ["--lengths", "128,160", "--depths", "0,50,100", "--task", "retrieval"]
    done = succeed("score", *grid, "--until-stable", "0.01", cwd=tmp_path)
    folder = tmp_path / "outputs" / "nano" / "retrieval"
    report = json.loads((folder / "run.json").read_text())
    assert report["status"] == "stable"
    saved = report["cases"] - report["observed"]
    assert f"stopped as stable after {report['observed']} of {report['cases']} cases" in done.stderr
    assert f"saves {saved}" in done.stderr
    assert report["observed"] == len(pd.read_parquet(folder / "cases.parquet")) < report["cases"]
    # Whole rounds, of about one case a needle.
    assert report["observed"] >= 24
    reliability = report["reliability"]["retrieval"]
    assert min(reliability[name]["ci_low"] for name in ("rank_correlation", "overlap")) > 0.01
    succeed("score", *grid, "--until-stable", "0.01", cwd=tmp_path)
    assert json.loads((folder / "run.json").read_text())["observed"] == report["observed"]


ALL = ["r2", "retrieval", "semantic", "mass", "contrast", "locos", "qr"]


@pytest.mark.slow
def test_all_measures_land_in_the_run_and_any_can_be_picked(alone: Path, tmp_path: Path) -> None:
    done = succeed("score", *GRID, "--measures", "all", cwd=tmp_path)
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
        shown = headprobe("show", "--measure", name, "--json", cwd=tmp_path)
        best = shown.json()["heads"][0]
        assert best["score"] == pytest.approx(tensors[name].max(), rel=1e-5)
    for command in (
        ["allocate", "--measure", "mass"],
        ["allocate", "--measure", "locos", "--strategy", "top", "--top-k", "4"],
        ["plot", "--measure", "contrast"],
        ["compare", "--measure", "r2", "--measure", "qr"],
    ):
        succeed(*command, cwd=tmp_path)
    signed = headprobe("allocate", "--measure", "locos", cwd=tmp_path)
    assert signed.returncode == 1
    assert "--strategy top or --strategy duo" in signed.stderr


def test_a_run_with_other_measures_is_another_run(alone: Path) -> None:
    done = headprobe("score", *GRID, "--measures", "qr", cwd=alone.parents[2])
    assert done.returncode == 2
    assert 'measures was ["r2"], now ["qr"]' in done.stderr


@pytest.mark.parametrize("rank", [0, 1])
def test_of_several_processes_the_first_alone_shows_what_a_run_takes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rank: int
) -> None:
    joined = nullcontext(Processes(rank=rank, count=2))
    monkeypatch.setattr("headprobe.runs.distributed.init_distributed", lambda say: joined)
    done = succeed("score", *GRID, "--dry-run", cwd=tmp_path)
    assert ("what a run takes" in done.stdout) is (rank == 0)
    assert bool(done.stdout) is (rank == 0)


def test_a_dry_run_counts_the_questions_that_ask_nothing(tmp_path: Path) -> None:
    costs = [
        headprobe("score", *GRID, *more, "--dry-run", "--json", cwd=tmp_path).json()
        for more in ([], ["--measures", "mass,locos"], ["--measures", "r2,qr"])
    ]
    assert costs[0] == costs[1]
    assert 0 < costs[2]["unique_tokens"] - costs[0]["unique_tokens"] < 24 * 32
    assert costs[2]["prompt_tokens"] > 1.5 * costs[0]["prompt_tokens"]


def test_measures_are_listed_with_the_tasks_that_take_them(tmp_path: Path) -> None:
    listed = headprobe("list", "measures", "--json", cwd=tmp_path)
    rows = {row["measure"]: row for row in listed.json()}
    assert set(ALL) <= set(rows)
    assert rows["qr"]["tasks"] == "r2, retrieval, evidence"
    assert "LOCOS" in rows["locos"]["what it is"]
    assert rows["alibi"]["tasks"] == "alibi"
    told = [row["what it is"] for row in rows.values()]
    assert all(told)
    assert len(set(told)) == len(told)


@pytest.mark.parametrize(
    ("options", "option", "value", "message"),
    [
        (["--measures", "r2,eco"], "measures", "eco", "r2, retrieval"),
        (["--task", "alibi", "--measures", "r2"], "measures", "r2", "task alibi has no cases"),
        (["--activation-memory", "lots"], "activation_memory", "lots", "1GiB"),
        (["--until-stable", "1.5"], "until_stable", 1.5, "between 0 and 1"),
        (["--device-map", "wild"], "device_map", "wild", "auto"),
        (["--device", "cpu", "--device-map", "auto"], "device_map", "auto", "exclude each other"),
    ],
)
def test_bad_options_are_one_line(
    tmp_path: Path, options: list[str], option: str, value: object, message: str
) -> None:
    error = refusal("score", *GRID, *options, cwd=tmp_path)
    assert isinstance(error, UsageError)
    assert (error.option, error.value) == (option, value)
    assert message in error.message


TEMPLATE = (
    "{% for m in messages %}{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}{% endif %}"
)


@pytest.mark.slow
def test_a_model_with_a_chat_template_is_asked_in_the_style_that_a_trial_decides_on(
    tmp_path: Path,
) -> None:
    (tmp_path / "own.jinja").write_text(TEMPLATE, encoding="utf-8")
    command = ["score", "--chat-template", "own.jinja", "--lengths", "300", "--limit", "4"]
    before = succeed(*command, "--dry-run", "--json", cwd=tmp_path).json()
    assert (before["prompt"]["asked"], before["prompt"]["used"]) == ("auto", None)
    done = succeed(*command, cwd=tmp_path)
    run = tmp_path / "outputs" / "nano" / "r2"
    report = json.loads((run / "run.json").read_text())
    prompt = report["prompt"]
    assert prompt["used"] == report["plan"]["prompt_style"]
    assert prompt["passed"][prompt["used"]] == max(prompt["passed"].values()) > 0.5
    assert prompt["prompts"] >= 4
    assert f"prompt: {prompt['used']} (of {prompt['prompts']} short prompts passed: " in done.stderr
    shown = succeed("show", run)
    assert f"prompt: {prompt['used']} (of {prompt['prompts']} short" in shown.stderr
    again = succeed(*command, cwd=tmp_path)
    assert again.stdout == done.stdout
    other = refusal(*command, "--prompt", "raw", cwd=tmp_path)
    assert f'prompt_style was "{prompt["used"]}", now "raw"' in str(other)


def test_prompt_options_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    assert "no chat template" in str(refusal("score", "--prompt", "chat", cwd=tmp_path))
    assert refusal("score", "--answer-prefix", " ", cwd=tmp_path).option == "answer_prefix"
    assert refusal("score", "--chat-template", "none.jinja", cwd=tmp_path).value == "none.jinja"
    asks_nothing = refusal("score", "--task", "razor", "--prompt", "raw", cwd=tmp_path)
    assert asks_nothing.option == "prompt"


@pytest.mark.slow
def test_several_processes_ask_as_the_first_decides(tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text(TEMPLATE, encoding="utf-8")
    command = ["score", "--chat-template", "own.jinja", "--lengths", "300", "--limit", "4"]
    done = forked(*command, "--out", "two", cwd=tmp_path, count=2)
    assert [one.returncode for one in done] == [0, 0], done
    decided = json.loads((tmp_path / "two" / "run.json").read_text())["plan"]["prompt_style"]
    succeed(*command, "--prompt", decided, "--out", "one", cwd=tmp_path)
    check_same_run(tmp_path / "one", tmp_path / "two")

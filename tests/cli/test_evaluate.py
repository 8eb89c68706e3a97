"""``headprobe evaluate``: what it prints, writes and refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner, Result

from headprobe.cli.evaluate import evaluate
from headprobe.errors import HeadprobeError, UsageError
from headprobe.scores import FILE_NAME, HeadScores

SMALL = ["--lengths", "128", "--depths", "0,100", "--limit", "2"]
STRATEGIES = ["headkv", "uniform", "pyramid", "adaptive", "streaming", "shuffled"]

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(evaluate)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a scored run and a budget of it."""
    folder = tmp_path_factory.mktemp("work")
    for arguments in (
        ["score", "--task", "razor", "--lengths", "128", "--limit", "2"],
        ["allocate", "--strategy", "razor", "--recent", "24"],
        ["score", "--lengths", "128", "--depths", "0,100", "--limit", "8"],
        ["allocate", "--budget", "24"],
    ):
        done = headprobe(*arguments, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


def headprobe(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headprobe", *arguments],
        cwd=cwd,
        env=os.environ | {"COLUMNS": "160", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


@pytest.fixture
def inside(work: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(work)
    monkeypatch.setenv("COLUMNS", "200")
    return work


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def refusal(*arguments: str | Path) -> HeadprobeError:
    error = invoke(*arguments).exception
    assert isinstance(error, HeadprobeError), error
    assert "\n" not in str(error)
    return error


def names(results: list[dict[str, Any]], setting: str) -> list[tuple[str, str]]:
    return [(one["strategy"], one["budget"]) for one in results if one["setting"] == setting]


def test_sizes_are_evaluated_from_the_newest_run_beside_every_baseline(work: Path) -> None:
    done = headprobe("evaluate", *SMALL, "--budget", "16,50%", "--json", cwd=work)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for setting in ("known", "unseen"):
        assert names(found["results"], setting) == [
            ("full", "100%"),
            *[(name, budget) for budget in ("16", "50%") for name in STRATEGIES],
        ]
    out = work / "outputs" / "nano" / "evaluate-r2"
    assert sorted(path.name for path in out.iterdir()) == [
        "accuracy.png",
        "answers.parquet",
        "evaluation.json",
        "progress.sqlite",
        "results.csv",
    ]
    assert found.items() <= json.loads((out / "evaluation.json").read_text()).items()
    assert found["questions"] == 2
    assert found["metric"] == "f1"
    plan = found["plan"]
    assert plan["needles"] == "bundled nano/held-out"
    assert (plan["seed"], plan["scores"]) == (1, str(Path("outputs", "nano", "r2")))
    for one in found["results"]:
        wanted = {"16": 16 / 128, "50%": 0.5, "100%": 1.0}[one["budget"]]
        if one["setting"] == "known":
            assert one["share"] == pytest.approx(wanted)
        assert set(one["grades"]) == {"exact_match", "f1", "recall", "accepted"}
        assert (one["lead"] is None) == (one["rival"] is None) == (one["strategy"] != "headkv")
    assert len(pd.read_csv(out / "results.csv")) == 2 * 13
    assert len(pd.read_parquet(out / "answers.parquet")) == 2 * 13 * 2
    assert "written to" in done.stderr


def test_the_tables_show_every_strategy_in_both_settings(inside: Path) -> None:
    shown = invoke(*SMALL, "--budget", "24", "--metric", "accepted", "--out", "own")
    assert shown.exception is None
    assert shown.stdout.count("the question is known when the cache is cut") == 1
    assert shown.stdout.count("the context is cut before the question is seen") == 1
    for name in ("full", *STRATEGIES):
        assert sum(line.startswith(f"│ {name} ") for line in shown.stdout.splitlines()) == 2
    assert (inside / "own" / "accuracy.png").is_file()


def test_a_budget_file_is_evaluated_beside_baselines_of_its_size(inside: Path) -> None:
    file = "outputs/nano/r2/budget-headkv-24.json"
    found = json.loads(invoke(*SMALL, "--budget", file, "--json", "--out", "file").stdout)
    own = [one for one in found["results"] if one["setting"] == "known"]
    assert [one["strategy"] for one in own] == ["full", *STRATEGIES]
    assert {one["budget"] for one in own[1:]} == {"budget-headkv-24"}
    assert {round(one["share"], 9) for one in own[1:]} == {24 / 128}


def test_a_budget_of_a_task_that_asks_nothing_is_asked_r2(inside: Path) -> None:
    file = "outputs/nano/razor/budget-razor.json"
    found = json.loads(invoke(*SMALL, "--budget", file, "--json", "--out", "razor").stdout)
    assert found["plan"]["task"] == "r2"
    assert found["results"][1]["strategy"] == "razor"


def test_what_is_the_default_may_be_said_when_it_resumes(inside: Path) -> None:
    options = [*SMALL, "--budget", "30", "--out", "twice"]
    assert invoke(*options).exception is None
    said = ["--window", "8", "--beta", "1.2", "--strategy", "headkv"]
    assert invoke(*options, *said).exception is None
    assert "--overwrite" in str(refusal(*options, "--window", "9"))


def test_an_answer_is_as_long_as_asked_for(inside: Path) -> None:
    options = [*SMALL, "--budget", "60", "--answer-tokens", "1", "--out", "short"]
    assert invoke(*options).exception is None
    said = pd.read_parquet("short/answers.parquet")["response"]
    assert (said.str.split().str.len() <= 1).all()
    assert "does not fit" in str(
        refusal("--lengths", "2000", "--answer-tokens", "200", "--budget", "60")
    )


def test_own_questions_are_asked_in_place_of_a_tasks(inside: Path) -> None:
    row = {
        "context": "Noah likes velvet kettles. Carl lives in Oxley Mill.",
        "question": "What does Noah like?",
        "answers": ["velvet kettles", "kettles"],
    }
    (inside / "own.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(row)}\n")
    options = ["--cases", "own.jsonl", "--budget", "9", "--limit", "1", "--answer-tokens", "1"]
    found = json.loads(invoke(*options, "--json").stdout)
    said = pd.read_parquet("outputs/nano/evaluate-own/answers.parquet")["response"]
    assert (said.str.split().str.len() <= 1).all()
    assert found["questions"] == 1
    assert set(found["results"][0]["grades"]) == {"exact_match", "f1", "recall"}
    assert (inside / "outputs" / "nano" / "evaluate-own" / "results.csv").is_file()


def test_scored_cases_are_refused_unless_asked_for(inside: Path, tmp_path: Path) -> None:
    from headprobe.models.bundled import bundled

    scored = bundled("needles", "nano", "r2.jsonl")
    message = str(refusal(*SMALL, "--budget", "16", "--needles", scored))
    assert "needles are those that outputs/nano/r2 was scored on" in message
    assert "--seed 0 drew the cases that were scored" in str(
        refusal(*SMALL, "--budget", "16", "--seed", "0")
    )
    # The run that a budget file lies in is asked too, also when other scores are named.
    other = tmp_path / "other"
    HeadScores.load(Path("outputs/nano/r2")).save(other / FILE_NAME)
    file = "outputs/nano/r2/budget-headkv-24.json"
    options = ["--scores", other, "--budget", file, "--needles", scored]
    assert "was scored on" in str(refusal(*SMALL, *options))
    # However it is typed, and whatever else divides sizes.
    for typed in (f"{file},16", f"16,{file}"):
        options = ["--scores", other, "--budget", typed, "--needles", scored]
        assert "was scored on" in str(refusal(*SMALL, *options))
    # So are the runs that it names, wherever it lies.
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_bytes(Path(file).read_bytes())
    asked = [*SMALL, "--budget", elsewhere]
    assert "outputs/nano/r2 was scored on" in str(refusal(*asked, "--needles", scored))
    assert "--seed 0 drew the cases" in str(refusal(*asked, "--seed", "0"))
    # A budget file counts as scored with the run beside it, also where the named one is another.
    beside = tmp_path / "beside"
    shutil.copytree("outputs/nano/r2", beside)
    budget = json.loads(elsewhere.read_text())
    budget["strategy"]["scores"][0]["run"] = "outputs/nano/razor"
    (beside / "own.json").write_text(json.dumps(budget))
    options = ["--scores", "outputs/nano/razor", "--budget", beside / "own.json"]
    assert "beside was scored on" in str(refusal(*SMALL, *options, "--needles", scored))
    # A file of scores has its seed too, whatever its name.
    named = beside / "named.safetensors"
    (beside / FILE_NAME).rename(named)
    assert "--seed 0 drew the cases" in str(
        refusal(*SMALL, "--scores", named, "--budget", "16", "--seed", "0")
    )
    told = invoke(*SMALL, "--budget", "16", "--scored-cases", "--json", "--out", tmp_path / "told")
    plan = json.loads(told.stdout)["plan"]
    assert (plan["needles"], plan["seed"], plan["scored_cases"]) == ("bundled nano", 0, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "many"], "tokens a head"),
        (["--budget", "8"], "nothing beyond the window"),
        (["--budget", "16", "--scores", "none"], "no scores at none"),
        (["--budget", "none.json"], "none.json"),
        (["--budget", "16", "--task", "alibi"], "--task takes r2, retrieval, which ask"),
        (["--budget", "16", "--task", "razor"], "--task takes r2, retrieval, which ask"),
        (["--budget", "outputs/nano/r2/budget-headkv-24.json", "--beta", "2"], "leave it out"),
        (["--budget", "16", "--out", "outputs/nano/r2/heads.csv"], "is no directory"),
        (["--budget", "16", "--metric", "rouge"], "--metric takes exact_match, f1, recall, accep"),
        (["--budget", "16", "--strategy", "duo"], "strategy duo takes no --budget"),
        (["--budget", "16", "--strategy", "best"], "no strategy 'best'"),
        (["--cases", "x.jsonl", "--task", "r2"], "leave out --task"),
        (["--cases", "x.jsonl", "--depths", "0,50"], "leave out --depths"),
        (["--cases", "x.jsonl", "--metric", "accepted"], "--metric takes exact_match, f1, recall,"),
        (["--cases", "none.jsonl"], "no case file none.jsonl"),
    ],
)
def test_wrong_usage_is_one_clear_line(inside: Path, arguments: list[str], message: str) -> None:
    error = refusal(*arguments, *(SMALL if "--cases" not in arguments else []))
    assert isinstance(error, UsageError)
    assert message in str(error)


def test_help_has_an_example() -> None:
    assert "Example: headprobe evaluate" in invoke("--help").stdout

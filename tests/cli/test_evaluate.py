"""``headprobe evaluate``: what it prints, writes and refuses."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from headprobe.errors import UsageError
from headprobe.evaluation.baselines import BASELINES
from headprobe.models.bundled import bundled
from headprobe.scores import FILE_NAME, HeadScores
from tests._support.command_line import Done, headprobe, refusal, succeed
from tests._support.refusals import facts

pytestmark = pytest.mark.slow

SMALL = ["--lengths", "128", "--depths", "0,100", "--limit", "2"]
BUDGET = "outputs/nano/r2/budget-headkv-24.json"
HEADS = "outputs/nano/r2/heads.csv"
GRADES = "exact_match, f1, recall or passed"
STRATEGIES = ["headkv", *BASELINES]


@pytest.fixture(scope="module")
def budgeted(nano_scored: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs of two tasks and a budget of each."""
    folder = tmp_path_factory.mktemp("evaluate") / "work"
    shutil.copytree(nano_scored, folder)
    for arguments in (
        ["allocate", "--budget", "24"],
        ["score", "--task", "razor", "--lengths", "128", "--limit", "2"],
        ["allocate", "--strategy", "razor", "--recent", "24"],
    ):
        succeed(*arguments, cwd=folder)
    os.utime(folder / "outputs" / "nano" / "r2" / FILE_NAME)
    return folder


@pytest.fixture
def inside(budgeted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Those runs and budgets in the test's own folder, in which commands are started."""
    folder = Path(shutil.copytree(budgeted, tmp_path / "work"))
    monkeypatch.chdir(folder)
    return folder


def evaluate(*arguments: str | Path) -> Done:
    return headprobe("evaluate", *arguments, columns=200)


def names(results: list[dict[str, Any]], setting: str) -> list[tuple[str, str]]:
    return [(one["strategy"], one["budget"]) for one in results if one["setting"] == setting]


def test_sizes_are_evaluated_from_the_newest_run_beside_every_baseline(inside: Path) -> None:
    done = succeed("evaluate", *SMALL, "--budget", "16,50%", "--json")
    found = done.json()
    for setting in ("query_aware", "query_agnostic"):
        assert names(found["results"], setting) == [
            ("full", "100%"),
            *[(name, budget) for budget in ("16", "50%") for name in STRATEGIES],
        ]
    out = inside / "outputs" / "nano" / "evaluate-r2"
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
        if one["setting"] == "query_aware":
            assert one["fraction"] == pytest.approx(wanted)
        assert set(one["grades"]) == {"exact_match", "f1", "recall", "passed"}
        assert (
            (one["gain"] is None) == (one["best_baseline"] is None) == (one["strategy"] != "headkv")
        )
    assert len(pd.read_csv(out / "results.csv")) == 2 * 19
    assert len(pd.read_parquet(out / "answers.parquet")) == 2 * 19 * 2
    assert "written to" in done.stderr


def test_the_tables_show_every_strategy_in_both_settings_and_the_default_resumes(
    inside: Path,
) -> None:
    options = [*SMALL, "--budget", "24", "--metric", "passed", "--out", "own"]
    shown = evaluate(*options)
    assert shown.returncode == 0
    assert shown.stdout.count("the question is known when the cache is compressed") == 1
    assert shown.stdout.count("the context is compressed before the question is seen") == 1
    for name in ("full", *STRATEGIES):
        assert sum(line.startswith(f"│ {name} ") for line in shown.stdout.splitlines()) == 2
    assert (inside / "own" / "accuracy.png").is_file()
    # What is the default may be said when it resumes.
    said = ["--window", "8", "--beta", "1.2", "--strategy", "headkv"]
    assert evaluate(*options, *said).returncode == 0
    assert refusal("evaluate", *options, "--window", "9").path == Path("own")


def test_a_budget_file_is_evaluated_beside_baselines_of_its_size(inside: Path) -> None:
    file = "outputs/nano/r2/budget-headkv-24.json"
    found = evaluate(*SMALL, "--budget", file, "--json", "--out", "file").json()
    own = [one for one in found["results"] if one["setting"] == "query_aware"]
    assert [one["strategy"] for one in own] == ["full", *STRATEGIES]
    assert {one["budget"] for one in own[1:]} == {"budget-headkv-24"}
    assert {round(one["fraction"], 9) for one in own[1:]} == {24 / 128}


def test_strategies_are_evaluated_with_every_selection(inside: Path) -> None:
    """The budget file that names a selection keeps it where none is asked for."""
    options = ["--budget", "24", "--selection", "defensive,value", "--out", "two"]
    found = evaluate(*SMALL, *options, "--json").json()
    own = [one for one in found["results"] if one["setting"] == "query_aware"]
    named = [(one["strategy"], one["selection"]) for one in own]
    assert named[:3] == [("full", None), ("headkv", "defensive"), ("headkv", "value")]
    assert dict(named[3:])["kvzip"] == "reconstruct"
    table = pd.read_csv(inside / "two" / "results.csv")
    assert list(table.columns[:4]) == ["setting", "strategy", "selection", "budget"]
    answers = pd.read_parquet(inside / "two" / "answers.parquet")
    assert set(answers[answers.strategy == "headkv"].selection) == {"defensive", "value"}
    succeed("allocate", "--budget", "24", "--selection", "expected", "--out", "expected.json")
    shown = evaluate(*SMALL, "--budget", "expected.json", "--json", "--out", "file").json()
    assert shown["results"][1]["selection"] == "expected"


def test_one_setting_alone_is_evaluated(inside: Path) -> None:
    options = [*SMALL, "--budget", "24", "--out", "one"]
    done = evaluate(*options, "--settings", "query_agnostic", "--json")
    assert {one["setting"] for one in done.json()["results"]} == {"query_agnostic"}
    assert "where the context is compressed before the question is seen" in done.stderr
    assert done.json()["plan"]["settings"] == ["query_agnostic"]
    both = evaluate(*options, "--settings", "query_agnostic,query_aware", "--overwrite", "--json")
    assert [one for one in both.json()["results"] if one["setting"] == "query_agnostic"] == (
        done.json()["results"]
    )
    assert "settings" not in both.json()["plan"]
    assert refusal("evaluate", *options, "--settings", "query_agnostic").path == Path("one")
    refused = evaluate(*SMALL, "--settings", "aware")
    assert refused.returncode == 2
    assert "--settings aware: expected query_aware or query_agnostic" in refused.stderr


def test_kvzip_is_left_out_where_a_prompt_cannot_be_repeated(inside: Path) -> None:
    longest = ["--lengths", "2048", "--limit", "1", "--budget", "24"]
    done = evaluate(*longest, "--json", "--out", "longest")
    left = "baselines kvzip and kvzip_global are left out; shorter --lengths let them in"
    assert left in done.stderr
    assert not {"kvzip", "kvzip_global"} & {one["strategy"] for one in done.json()["results"]}
    refused = evaluate(*longest, "--selection", "reconstruct", "--out", "x")
    assert refused.returncode == 2
    assert "--selection reconstruct: prompts of 2048 tokens leave no room" in refused.stderr


def test_a_budget_of_a_task_that_asks_nothing_is_asked_r2(inside: Path) -> None:
    file = "outputs/nano/razor/budget-razor.json"
    found = evaluate(*SMALL, "--budget", file, "--json", "--out", "razor").json()
    assert found["plan"]["task"] == "r2"
    assert found["results"][1]["strategy"] == "razor"


@pytest.mark.slow
def test_options_of_a_strategy_reach_it(inside: Path) -> None:
    tuned = ["--strategy", "tuned", "--min-entries", "6", "--fill-to", "20"]
    found = evaluate(*SMALL, "--budget", "24", *tuned, "--out", "tuned", "--json").json()
    (method,) = found["plan"]["methods"]
    assert (method["min_entries"], method["fill_to"]) == (6, 20)


def test_an_answer_is_as_long_as_asked_for(inside: Path) -> None:
    options = [*SMALL, "--budget", "60", "--max-new-tokens", "1", "--out", "short"]
    assert evaluate(*options).returncode == 0
    said = pd.read_parquet("short/answers.parquet")["response"]
    assert (said.str.split().str.len() <= 1).all()
    error = refusal("evaluate", "--lengths", "2000", "--max-new-tokens", "200", "--budget", "60")
    assert facts(error) == {"option": "lengths", "value": 2000}


def test_own_questions_are_asked_in_place_of_a_tasks(inside: Path) -> None:
    row = {
        "context": "Noah likes velvet kettles. Carl lives in Oxley Mill.",
        "question": "What does Noah like?",
        "answers": ["velvet kettles", "kettles"],
    }
    (inside / "own.jsonl").write_text(f"{json.dumps(row)}\n{json.dumps(row)}\n")
    options = ["--questions", "own.jsonl", "--budget", "9", "--limit", "1", "--max-new-tokens", "1"]
    found = evaluate(*options, "--json").json()
    said = pd.read_parquet("outputs/nano/evaluate-own/answers.parquet")["response"]
    assert (said.str.split().str.len() <= 1).all()
    assert found["questions"] == 1
    assert set(found["results"][0]["grades"]) == {"exact_match", "f1", "recall"}
    assert (inside / "outputs" / "nano" / "evaluate-own" / "results.csv").is_file()


def test_scored_cases_are_refused_unless_asked_for(inside: Path, tmp_path: Path) -> None:
    scored = bundled("needles", "nano", "r2.jsonl")
    run = Path("outputs/nano/r2")

    def refused(*arguments: str | Path) -> dict[str, Any]:
        error = refusal("evaluate", *SMALL, *arguments)
        assert isinstance(error, UsageError)
        return facts(error)

    needles, seed = {"option": "needles", "path": run}, {"option": "seed", "value": 0}
    assert refused("--budget", "16", "--needles", scored) == needles
    assert refused("--budget", "16", "--seed", "0") == seed
    # The run that a budget file lies in is asked too, also when other scores are named.
    other = tmp_path / "other"
    HeadScores.load(run).save(other / FILE_NAME)
    file = "outputs/nano/r2/budget-headkv-24.json"
    # However it is typed, and whatever else divides sizes.
    for typed in (file, f"{file},16", f"16,{file}"):
        assert refused("--scores", other, "--budget", typed, "--needles", scored) == needles
    # So are the runs that it names, wherever it lies.
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_bytes(Path(file).read_bytes())
    assert refused("--budget", elsewhere, "--needles", scored) == needles
    assert refused("--budget", elsewhere, "--seed", "0") == seed
    # A budget file counts as scored with the run beside it, also where the named one is another.
    beside = tmp_path / "beside"
    shutil.copytree("outputs/nano/r2", beside)
    budget = json.loads(elsewhere.read_text())
    budget["strategy"]["scores"][0]["run"] = "outputs/nano/razor"
    (beside / "own.json").write_text(json.dumps(budget))
    options = ["--scores", "outputs/nano/razor", "--budget", beside / "own.json"]
    assert refused(*options, "--needles", scored) == needles | {"path": beside}
    # A file of scores has its seed too, whatever its name.
    named = beside / "named.safetensors"
    (beside / FILE_NAME).rename(named)
    assert refused("--scores", named, "--budget", "16", "--seed", "0") == seed
    options = ["--budget", "16", "--allow-scored-needles", "--json", "--out", tmp_path / "told"]
    plan = evaluate(*SMALL, *options).json()["plan"]
    assert (plan["needles"], plan["seed"], plan["scored_cases"]) == ("bundled nano", 0, True)


def test_a_benchmark_is_asked_by_its_protocol_and_written_as_kvpress_has_it(inside: Path) -> None:
    pytest.importorskip("wonderwords")
    ruler = ["--benchmark", "ruler:niah_single_1", "--lengths", "512", "--limit", "2"]
    kept = ["--keep", "97%", "--to", "kvpress", "--max-new-tokens", "4", "--budget", "60"]
    found = evaluate(*ruler, *kept, "--out", "ruler", "--json").json()
    assert found["metric"] == "string_match_all"
    assert set(found["results"][0]["grades"]) == {
        "string_match_all",
        "exact_match",
        "f1",
        "recall",
    }
    (protocol,) = found["plan"]["protocol"]
    assert (protocol["name"], protocol["stops"]) == ("ruler:niah_single_1", "end")
    assert "kept" in found
    folders = {path.name for path in (inside / "ruler" / "kvpress").iterdir()}
    assert any(name.startswith("ruler__512__nano__headkv__0.8") for name in folders)
    assert "ruler__512__nano__no_press__0.00__query_aware" in folders
    shown = evaluate(*ruler, *kept, "--out", "ruler")
    assert "the full cache has no string_match_all: there is nothing to keep" in shown.stderr
    shown = evaluate(*SMALL, "--budget", "24,50%", "--keep", "0.5", "--out", "kept")
    assert "the least cache that keeps 50 % of f1" in " ".join(shown.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "wrong", "message"),
    [
        (["--budget", "many"], {"option": "budget", "value": "many"}, "tokens a head"),
        (["--budget", "8"], {"option": "budget"}, "nothing beyond the window"),
        (["--budget", "16", "--scores", "none"], {"path": Path("none")}, "no scores"),
        (["--budget", "none.json"], {"path": Path("none.json")}, "no budget file"),
        (["--budget", "16", "--task", "alibi"], {"option": "task", "value": "alibi"}, "r2, retr"),
        (["--budget", "16", "--task", "razor"], {"option": "task", "value": "razor"}, "r2, retr"),
        (["--budget", BUDGET, "--beta", "2"], {"option": "beta"}, "leave it out"),
        (["--budget", "16", "--out", HEADS], {"path": Path(HEADS)}, "is no directory"),
        (["--budget", "16", "--strategy", "duo"], {"option": "budget"}, "strategy duo takes no"),
        (["--budget", "16", "--strategy", "best"], {"value": "best"}, "no strategy 'best'"),
        (["--questions", "x.jsonl", "--task", "r2"], {"option": "task"}, "leave it out"),
        (["--questions", "x.jsonl", "--depths", "0,50"], {"option": "depths"}, "leave it out"),
        (
            ["--questions", "x.jsonl", "--metric", "passed"],
            {"option": "metric", "value": "passed"},
            "exact_match, f1 or recall",
        ),
        (["--questions", "none.jsonl"], {"path": Path("none.jsonl")}, "no question file"),
        (["--benchmark", "x"], {"option": "benchmark", "value": "x"}, "expected longbench, loogle"),
        (["--benchmark", "ruler:vt", "--task", "r2"], {"option": "task"}, "leave it out"),
        (["--budget", "16", "--keep", "0"], {"option": "keep", "value": "0"}, "such as 97%"),
        (
            ["--benchmark", "ruler:vt", "--metric", "passed"],
            {"option": "metric", "value": "passed"},
            "string_match_all, score, exact_match, f1 or recall",
        ),
    ],
)
def test_wrong_usage_is_one_clear_line(
    inside: Path, arguments: list[str], wrong: dict[str, Any], message: str
) -> None:
    error = refusal(
        "evaluate", *arguments, *([] if {"--questions", "--benchmark"} & {*arguments} else SMALL)
    )
    assert isinstance(error, UsageError)
    assert facts(error) == wrong
    assert message in error.message

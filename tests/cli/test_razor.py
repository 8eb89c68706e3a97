"""``headprobe score --task razor`` and what follows on it, as a user types it."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

from headprobe.errors import UsageError
from tests._support.command_line import headprobe, refusal, succeed
from tests._support.forks import forked

RAZOR = ["score", "--task", "razor"]
SMALL = ["--lengths", "257,513", "--limit", "12", "--seed", "1"]
RUN = Path("outputs", "nano", "razor")


@pytest.fixture(scope="module")
def razor_scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which nano was scored; it is for all tests of this file, so look only."""
    folder = tmp_path_factory.mktemp("razor")
    done = succeed(*RAZOR, *SMALL, cwd=folder)
    assert "12 cases, nothing is asked" in done.stderr
    assert f"next: headprobe allocate {RUN} --strategy razor" in done.stderr
    return folder


@pytest.fixture
def work(razor_scored: Path, tmp_path: Path) -> Path:
    """A folder of the test's own in which nano was scored."""
    return Path(shutil.copytree(razor_scored, tmp_path / "work"))


def test_the_run_directory_holds_both_measures(work: Path) -> None:
    with safe_open(work / RUN / "scores.safetensors", framework="numpy") as file:
        header = json.loads(file.metadata()["headprobe"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert sorted(tensors) == ["echo", "echo.per_case", "induction", "induction.per_case"]
    for measure in ("echo", "induction"):
        per_case = tensors[f"{measure}.per_case"]
        assert per_case.shape == (12, 6, 8)
        assert (per_case >= 0).all()
        assert 0 < per_case.max() <= 1
        np.testing.assert_allclose(tensors[measure], per_case.mean(axis=0), rtol=1e-6)
    assert (header["task"], header["accepted"], header["cases"]) == ("razor", 12, 12)
    assert header["measures"] == ["induction", "echo"]
    assert (header["plan"]["lengths"], header["plan"]["seed"]) == ([257, 513], 1)
    heads = pd.read_csv(work / RUN / "heads.csv")
    assert heads.groupby("measure").size().to_dict() == {"echo": 48, "induction": 48}
    assert (heads["ci_low"] <= heads["score"]).all()
    assert (heads["ci_low"] < heads["ci_high"]).any()
    report = json.loads((work / RUN / "run.json").read_text())
    assert (report["status"], report["observed"]) == ("complete", 12)
    assert report["reliability"]["induction"]["needles"] == 8


def test_the_case_table_holds_whole_sequences_and_no_answers(work: Path) -> None:
    cases = pd.read_parquet(work / RUN / "cases.parquet")
    assert list(cases["case_id"]) == list(range(12))
    # Balanced: every block is there, the lengths equally often.
    assert set(cases["needle_id"]) == set(range(8))
    assert cases["length"].value_counts().to_dict() == {257: 6, 513: 6}
    for case in cases.itertuples():
        ids, size = list(case.input_ids), case.span_end - case.span_start
        assert len(ids) == case.length == 1 + 4 * size
        assert ids[1:] == 4 * ids[case.span_start : case.span_end]
        assert case.position == case.span_start == 1
        assert len(case.answer_ids) == len(case.generated_ids) == 0
    assert cases["accepted"].all()
    schema = pq.read_schema(work / RUN / "cases.parquet")
    for name in ("input_ids", "answer_ids", "generated_ids"):
        assert str(schema.field(name).type.value_type) == "int64"


@pytest.mark.slow
def test_a_run_that_was_cut_short_goes_on_to_the_same_bits(work: Path, tmp_path: Path) -> None:
    folder = tmp_path / RUN
    folder.mkdir(parents=True)
    (folder / "progress.sqlite").write_bytes((work / RUN / "progress.sqlite").read_bytes())
    with sqlite3.connect(folder / "progress.sqlite") as progress:
        progress.execute("DELETE FROM unit WHERE (rowid - 1) % 3 > 0")
    progress.close()
    succeed(*RAZOR, *SMALL, cwd=tmp_path)
    assert json.loads((folder / "run.json").read_text())["resumed_from"] == 4
    check_same_scores(work / RUN, folder)
    other = headprobe(*RAZOR, *SMALL[:-1], "2", cwd=tmp_path)
    assert other.returncode == 2
    assert "seed was 1, now 2" in other.stderr


@pytest.mark.slow
def test_two_processes_make_the_run_of_one(work: Path, tmp_path: Path) -> None:
    done = forked(*RAZOR, *SMALL, cwd=tmp_path, count=2)
    assert [one.returncode for one in done] == [0, 0], done
    check_same_scores(work / RUN, tmp_path / RUN)


def check_same_scores(one: Path, other: Path) -> None:
    for name, values in load_file(one / "scores.safetensors").items():
        np.testing.assert_array_equal(load_file(other / "scores.safetensors")[name], values)


def test_a_dry_run_counts_the_default_cases(tmp_path: Path) -> None:
    cost = succeed(*RAZOR, "--dry-run", "--json", cwd=tmp_path).json()
    # 4 * 527 tokens and BOS fit into the window of 2,112.
    assert (cost["cases"], cost["prompt_tokens"]) == (8, 8 * 2109)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "option", "value", "message"),
    [
        (["--depths", "0,50"], "depths", "0,50", "this task hides no needles"),
        (["--needles", __file__], "needles", Path(__file__), "this task hides no needles"),
        (["--haystack", "noise"], "haystack", "noise", "this task hides no needles"),
        (["--decode", "forced"], "decode", "forced", "task razor has no answers to force"),
        (["--lengths", "20"], "lengths", 20, "expected at least 65"),
        (["--lengths", "4000"], "lengths", 4000, "prompts take at most 2112"),
    ],
)
def test_what_makes_no_sense_is_one_clear_line(
    tmp_path: Path, options: list[str], option: str, value: object, message: str
) -> None:
    error = refusal(*RAZOR, *options, cwd=tmp_path)
    assert isinstance(error, UsageError)
    assert (error.option, error.value) == (option, value)
    assert message in error.message
    assert not list(tmp_path.iterdir())


def test_the_run_is_shown_listed_and_plotted(work: Path) -> None:
    assert succeed("show", "--json", cwd=work).json()["measure"] == "induction"
    shown = succeed("show", "--measure", "echo", "--json", cwd=work).json()
    assert (shown["task"], shown["measure"], shown["accepted"]) == ("razor", "echo", 12)
    tasks = succeed("list", "tasks", "--json", cwd=work).json()
    assert {"razor": "induction, echo"}.items() <= {t["task"]: t["measures"] for t in tasks}.items()
    assert (work / succeed("plot", cwd=work).stdout.strip()).stat().st_size > 10_000


def test_a_budget_of_the_run_keeps_the_best_kv_heads_whole(work: Path) -> None:
    done = succeed("allocate", "--strategy", "razor", "--json", cwd=work)
    longest = "every head keeps all of the 2,112 tokens that the model takes"
    assert f"warning: {longest}; give a smaller --recent" in done.stderr
    full = np.array(done.json()["ratio"]) == 1
    wanted = np.zeros((6, 4), dtype=bool)
    # 14 % and 1 % of 24 KV heads, rounded up.
    for measure, count in (("induction", 4), ("echo", 1)):
        scores = load_file(work / RUN / "scores.safetensors")[measure]
        groups = scores.reshape(6, 4, 2).max(axis=2)
        wanted |= groups >= np.sort(groups, axis=None)[-count]
    np.testing.assert_array_equal(full, wanted)


def test_the_run_is_exported_to_the_programs_of_razor_attention(work: Path) -> None:
    succeed("export", str(RUN), "--to", "razor", "--out", "heads.pt", cwd=work)
    lists = torch.load(work / "heads.pt", weights_only=True)
    assert set(lists) == {"prefix_matching", "copying"}
    scores = load_file(work / RUN / "scores.safetensors")["echo"].reshape(6, 4, 2).max(axis=2)
    layer, head = np.unravel_index(scores.argmax(), scores.shape)
    assert lists["copying"] == {int(layer): [int(head)]}


@pytest.mark.slow
def test_induction_heads_of_the_bundled_model_are_retrieval_heads(work: Path) -> None:
    succeed("score", "--task", "retrieval", "--lengths", "256", "--limit", "24", cwd=work)
    runs = [str(RUN), str(RUN.with_name("retrieval"))]
    compared = succeed("compare", *runs, "--json", cwd=work).json()
    (pair,) = compared["agreements"]
    # By chance two rankings of 48 heads share an eighth of their top six.
    assert pair["overlap"] >= 0.5

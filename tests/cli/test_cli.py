"""The commands as a user types them: what they print, write and refuse."""

from __future__ import annotations

import json
import os
import shutil
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open
from tokenizers import Tokenizer, models
from transformers import BloomConfig, BloomForCausalLM, PreTrainedTokenizerFast

from headprobe.errors import HeadprobeError, UsageError
from tests._support.command_line import (
    headprobe,
    process,
    refusal,
    succeed,
)
from tests._support.forks import forked
from tests._support.stopped import stop_after

SMALL = ["--lengths", "128", "--depths", "0,50,100", "--limit", "48"]
RUN = Path("outputs", "nano", "r2")
LLAMA = "meta-llama/Meta-Llama-3-8B-Instruct"


def test_score_writes_the_run_directory_of_the_contract(nano_scored: Path) -> None:
    run = nano_scored / RUN
    with safe_open(run / "scores.safetensors", framework="numpy") as file:
        header = json.loads(file.metadata()["headprobe"])
        mean, per_case = (
            file.get_tensor("r2"),
            file.get_tensor("r2.per_case"),
        )
    cases = pd.read_parquet(run / "cases.parquet")
    heads = pd.read_csv(run / "heads.csv")
    report = json.loads((run / "run.json").read_text())
    assert mean.dtype == per_case.dtype == np.float32
    assert mean.shape == (6, 8)
    assert per_case.shape == (header["accepted"], 6, 8)
    np.testing.assert_allclose(per_case.mean(0), mean, rtol=1e-6, atol=1e-7)
    assert header["format_version"] == 1
    assert header["model"]["kv_heads"] == 4
    assert header["plan"]["seed"] == 0
    assert header["cases"] == len(cases) == report["observed"] == 48
    assert cases["accepted"].sum() == header["accepted"]
    assert list(cases["case_id"]) == list(range(48))
    assert all(len(ids) == length for ids, length in zip(cases["input_ids"], cases["length"]))  # noqa: B905
    columns = "layer,head,kv_head,measure,score,std,ci_low,ci_high,rank"
    assert ",".join(heads.columns) == columns
    assert len(heads) == 48
    np.testing.assert_allclose(heads["score"].to_numpy().reshape(6, 8), mean, rtol=1e-5)
    assert report["status"] == "complete"
    assert report["reliability"]["r2"]["needles"] == len(set(header["needles"]))
    assert report["reliability"]["r2"]["k"] == 6


def test_the_three_commands_work_one_after_the_other(scored: Path) -> None:
    allocated = succeed("allocate", "--budget", "32", "--json", cwd=scored)
    budget = allocated.json()
    assert np.array(budget["tokens"]).shape == (6, 4)
    assert np.sum(budget["tokens"]) == 32 * 24
    stored = scored / RUN / "budget-headkv-32.json"
    keeps = budget.pop("keeps")
    assert json.loads(stored.read_text()) == budget
    assert [kept["context_length"] for kept in keeps] == [4096, 32_768, 131_072]
    assert {kept["tokens"] for kept in keeps} == {32 * 24}
    assert keeps[0]["bytes"] == 32 * 24 * 2 * 32 * 2
    assert keeps[0]["fraction"] == 32 / 4096
    plotted = succeed("plot", cwd=scored)
    picture = scored / plotted.stdout.strip()
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_several_runs_feed_one_budget_and_strategies_choose_heads(scored: Path) -> None:
    mixed = succeed(
        *("allocate", "--scores", f"{RUN}:0.7", "--scores", f"{RUN}:0.3", "--strategy", "top"),
        *("--top-k", "3", "--sinks", "4", "--recent", "60"),
        cwd=scored,
    )
    assert mixed.stderr.count(f"{RUN}: ") == 2
    fraction = (3 * 4096 + 21 * 64) / (24 * 4096)
    assert f"{fraction:.2%}" in mixed.stdout
    stored = json.loads((scored / RUN / "budget-top-mixed.json").read_text())
    assert [source["weight"] for source in stored["strategy"]["scores"]] == [0.7, 0.3]
    assert np.sum(stored["ratio"]) == 3
    again = headprobe("show", str(RUN / "budget-top-mixed.json"), "--json", cwd=scored)
    assert again.json()["keeps"][0]["fraction"] == fraction


def test_a_finished_run_is_not_run_again(scored: Path) -> None:
    again = succeed("score", *SMALL, "--json", cwd=scored)
    report = json.loads((scored / RUN / "run.json").read_text())
    assert report["resumed_from"] == 48
    shown = headprobe("show", "--top-k", "10", "--json", cwd=scored).json()
    assert again.json() == shown


def test_other_options_are_refused_with_the_difference_named(nano_scored: Path) -> None:
    other = headprobe("score", *SMALL[:2], "--depths", "0,50", "--limit", "48", cwd=nano_scored)
    assert other.returncode == 2
    assert "depths was [0.0, 50.0, 100.0], now [0.0, 50.0]" in other.stderr
    assert "--overwrite" in other.stderr


def test_show_says_how_many_cases_passed(nano_scored: Path) -> None:
    shown = succeed("show", cwd=nano_scored)
    assert "of 48 cases passed" in shown.stdout
    assert "of 48 cases passed" in shown.stderr


@pytest.mark.slow
def test_a_run_killed_in_the_middle_goes_on_and_gives_the_same_scores(
    nano_scored: Path, tmp_path: Path
) -> None:
    stop = partial(stop_after, 20, "SIGKILL")
    (killed,) = forked("score", *SMALL, "--out", "cut", cwd=tmp_path, first=stop)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "cut" / "scores.safetensors").exists()
    succeed("score", *SMALL, "--out", "cut", cwd=tmp_path)
    report = json.loads((tmp_path / "cut" / "run.json").read_text())
    assert report["resumed_from"] == 20
    with (
        safe_open(tmp_path / "cut" / "scores.safetensors", framework="numpy") as cut,
        safe_open(nano_scored / RUN / "scores.safetensors", framework="numpy") as whole,
    ):
        for name in ("r2", "r2.per_case"):
            np.testing.assert_array_equal(cut.get_tensor(name), whole.get_tensor(name))


@pytest.mark.slow
def test_ctrl_c_stops_with_one_line_and_keeps_what_was_observed(tmp_path: Path) -> None:
    stop = partial(stop_after, 20, "SIGINT")
    (stopped,) = forked("score", *SMALL, "--out", "run", cwd=tmp_path, first=stop)
    assert stopped.returncode == 130
    assert stopped.stdout == ""
    assert "the same command goes on" in stopped.stderr.splitlines()[-1]
    assert "Traceback" not in stopped.stderr
    report = json.loads((tmp_path / "run" / "run.json").read_text())
    assert report["status"] == "stopped"
    assert (report["observed"], report["cases"]) == (20, 48)


@pytest.mark.parametrize(
    ("arguments", "code", "wrong", "message"),
    [
        (["score", "--model", "./nowhere"], 2, ("model", "./nowhere"), "no such directory"),
        (["score", "--task", "nothing"], 2, ("task", "nothing"), "r2, retrieval, evidence, razor"),
        (["score", "--lengths", "128,4096"], 2, ("lengths", 4096), "fit the model's max context"),
        (["score", "--lengths", "10"], 2, ("lengths", 10), "too short for needle"),
        (["score", "--lengths", "ten"], 2, ("lengths", "ten"), "start:stop:count"),
        (["score", "--depths", "0,101"], 2, ("depths", 101), "0 to 100"),
        (["score", "--needles", "empty.jsonl"], 2, "empty.jsonl", "holds no needle"),
        (["score", "--needles", "broken.jsonl"], 2, "broken.jsonl", "line 2: not JSON"),
        (["score", "--needles", "missing.jsonl"], 2, ("needles", None), "no needle file"),
        (["score", "--haystack", "missing"], 2, ("haystack", Path("missing")), "a file"),
        (["score", "--device", "cuda:99"], 2, ("device", "cuda:99"), ""),
        (["score", "--dtype", "int8"], 2, ("dtype", "int8"), "float32"),
        (["score", "--model", "llama3-8b"], 1, ("model", LLAMA), "no network"),
        (["allocate", "missing"], 2, "missing", "no scores at missing"),
        (["allocate", "cut.safetensors"], 1, "cut.safetensors", "damaged"),
        (["allocate"], 2, "outputs", "no run under outputs"),
        (["allocate", "missing", "--scores", "other"], 2, ("scores", None), "give missing as one"),
        (["allocate", "--scores", "missing:0.5"], 2, "missing", "no scores at missing"),
        (["allocate", "--scores", "missing:0"], 2, ("scores", "missing:0"), "above 0"),
        (["show", "missing.json"], 2, "missing.json", "headprobe allocate"),
        (["plot", "missing"], 2, "missing", "headprobe score"),
    ],
)
def test_bad_input_is_one_clear_line(
    tmp_path: Path,
    nano_scored: Path,
    arguments: list[str],
    code: int,
    wrong: str | tuple[str, object],
    message: str,
) -> None:
    """``wrong`` is the path that is wrong, or the option and its value."""
    (tmp_path / "empty.jsonl").touch()
    good = '{"needle": "Ada likes kites.", "question": "What?", "real_needle": "kites"}'
    (tmp_path / "broken.jsonl").write_text(f"{good}\n{good[:20]}\n")
    whole = (nano_scored / RUN / "scores.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    error = refusal(*arguments, cwd=tmp_path)
    assert type(error) is {1: HeadprobeError, 2: UsageError}[code]
    if isinstance(wrong, tuple):
        assert (error.option, error.value) == wrong
    else:
        assert (error.option, error.path) == (None, Path(wrong))
    assert message in error.message
    assert not (tmp_path / "outputs").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("arguments", [["show"], ["show", "--json"], ["list", "tasks"]])
def test_a_full_disk_after_stdout_is_one_clear_line(
    nano_scored: Path, arguments: list[str]
) -> None:
    with Path("/dev/full").open("w") as full:
        done = process("-m", "headprobe", *arguments, cwd=nano_scored, stdout=full)
    assert done.returncode == 1
    assert done.stderr.startswith("error: output: No space left on device; free some disk")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["show"], ["show", "--json"]])
def test_a_reader_that_has_had_enough_is_no_error(nano_scored: Path, arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        done = process("-m", "headprobe", *arguments, cwd=nano_scored, stdout=pipe)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) <= 1
    assert done.stderr == "" or "of 48 cases passed" in done.stderr


def test_a_directory_that_cannot_be_written_is_one_clear_line(
    nano_scored: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for out in ("file", "file/x"):
        done = headprobe("score", *SMALL, "--out", out, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1] == f"error: {out} is no directory: give the name of one"
    shutil.copytree(nano_scored / RUN, tmp_path / "run")
    (tmp_path / "run" / "heads.csv").unlink()
    (tmp_path / "run" / "heads.csv").mkdir()
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    done = headprobe("score", *SMALL, "--out", "run", "--overwrite", cwd=tmp_path)
    assert done.returncode == 2
    assert "run/heads.csv is a directory" in done.stderr.splitlines()[-1]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


def test_a_runs_own_files_are_never_an_output(scored: Path) -> None:
    budget = scored / RUN / "budget-headkv-32.json"
    succeed("allocate", RUN, "--budget", "32", cwd=scored)
    before = {path: path.read_bytes() for path in (scored / RUN).iterdir()}
    (scored / "link.json").symlink_to(budget)
    shutil.copy(scored / RUN / "scores.safetensors", scored / "alone.safetensors")
    for command in (
        ["allocate", RUN, "--budget", "16", "--out", RUN / "scores.safetensors"],
        ["allocate", RUN, "--budget", "16", "--out", RUN / "run.json"],
        ["allocate", "alone.safetensors", "--budget", "16", "--out", "./alone.safetensors"],
        ["export", RUN, "--to", "headkv", "--out", RUN / "progress.sqlite"],
        ["export", budget, "--to", "razor", "--out", "link.json"],
        ["export", RUN, "--to", "csv", "--out", RUN / "heads.csv"],
        ["compare", RUN, RUN, "--out", RUN / "accuracy.png"],
        ["plot", RUN, "--out", RUN / "ablation.png"],
    ):
        error = refusal(*command, cwd=scored)
        assert error.option == "out"
        assert "give another name" in error.message
    assert {path: path.read_bytes() for path in (scored / RUN).iterdir()} == before
    # Beside no run the name is free, and so is any other name inside a run.
    succeed("export", RUN, "--to", "csv", "--out", "heads.csv", cwd=scored)
    succeed("export", RUN, "--to", "csv", "--out", RUN / "own.csv", cwd=scored)


def test_help_answers_in_half_a_second_without_the_heavy_libraries(
    tmp_path: Path,
) -> None:
    code = (
        "import sys; from headprobe.cli.app import app; "
        "heavy = {'torch', 'transformers', 'pandas', 'matplotlib', 'numpy'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = process("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def bloom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random bloom model as transformers saves it."""
    folder = tmp_path_factory.mktemp("models")
    config = BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=4)
    BloomForCausalLM(config).save_pretrained(folder / "bloom")
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(64)}))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(folder / "bloom")
    return folder


@pytest.mark.slow
def test_an_alibi_model_is_scored_without_cases_and_allocated(bloom: Path) -> None:
    done = succeed("score", "--model", "./bloom", "--task", "alibi", "--json", cwd=bloom)
    heads = done.json()["heads"]
    assert len(heads) == 8
    assert "--strategy alibi" in done.stderr
    done = succeed("allocate", "--strategy", "alibi", "--window", "4", "--json", cwd=bloom)
    tokens = done.json()["tokens"]
    assert all(tokens[row["layer"]][row["head"]] == np.ceil(row["score"]) for row in heads)
    shown = headprobe("show", cwd=bloom)
    assert "from the weights alone" in shown.stdout
    succeed("plot", cwd=bloom)


@pytest.mark.slow
def test_the_first_of_several_processes_alone_reads_the_weights(bloom: Path) -> None:
    command = ["score", "--model", "./bloom", "--task", "alibi", "--out", "together"]
    done = forked(*command, cwd=bloom, count=2)
    assert [one.returncode for one in done] == [0, 0], done
    assert [one.stdout.count("from the weights alone") for one in done] == [1, 0]
    assert [one.stderr.count("written to together") for one in done] == [1, 0]


@pytest.mark.parametrize(
    ("model", "arguments", "option", "message"),
    [
        ("./bloom", ["--lengths", "128"], "lengths", "task alibi has no cases: leave it out"),
        ("./bloom", ["--dry-run"], "dry_run", "task alibi has no cases: leave it out"),
        ("nano", [], "task", "this is a 'llama' model without it"),
    ],
)
def test_what_alibi_cannot_do_is_one_clear_line(
    bloom: Path, model: str, arguments: list[str], option: str, message: str
) -> None:
    error = refusal("score", "--model", model, "--task", "alibi", *arguments, cwd=bloom)
    assert type(error) is (UsageError if arguments else HeadprobeError)
    assert error.option == option
    assert message in error.message
    assert not (bloom / "outputs" / "nano").exists()


def test_models_are_listed_with_their_figures(tmp_path: Path) -> None:
    listed = headprobe("list", "models", "--json", cwd=tmp_path)
    rows = {row["alias"]: row for row in listed.json()}
    assert rows["llama3-8b"] == {
        "alias": "llama3-8b",
        "loads": "meta-llama/Meta-Llama-3-8B-Instruct",
        "layers": 32,
        "heads": 32,
        "KV heads": 8,
        "max context": 8192,
    }

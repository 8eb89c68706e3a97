from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from headprobe.formats import FORMATS
from headprobe.models.bundled import bundled
from tests._support.command_line import refusal, succeed


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def heads() -> Path:
    draw = np.random.default_rng(0)
    table = {f"{layer}-{head}": draw.random(6).tolist() for layer in range(6) for head in range(8)}
    path = Path("heads.json")
    path.write_text(json.dumps(table))
    return path


@pytest.mark.parametrize("cases", [6, 1])
@pytest.mark.slow
def test_an_imported_file_goes_through_every_other_command(cases: int, heads: Path) -> None:
    table = json.loads(heads.read_text())
    heads.write_text(json.dumps({name: values[:cases] for name, values in table.items()}))
    run = Path("outputs/published/headkv")
    result = succeed("import", heads, "--from", "headkv", "--out", run, "--kv-heads", "4")
    assert result.stdout.split() == [str(run)]
    assert f"{cases} cases of 6 layers of 8 query and 4 KV heads" in result.stderr
    budget = succeed("allocate", run, "--budget", "64", "--json").json()
    assert np.sum(budget["tokens"]) == 64 * 24
    shown = succeed("show", "--json").json()
    assert (shown["task"], shown["measure"]) == ("headkv", "headkv")
    assert Path(succeed("plot", run).stdout.strip()).read_bytes().startswith(b"\x89PNG")
    # The newest run and its budget, each by itself.
    assert succeed("export", "--to", "headkv", "--out", "again.json").stdout.strip() == "again.json"
    again = json.loads(Path("again.json").read_text())
    for name, values in table.items():
        assert again[name] == pytest.approx(values[:cases], rel=1e-6)
    succeed(
        "export", run / "budget-headkv-64.json", "--to", "attention-matching", "--out", "b.json"
    )
    fractions = json.loads(Path("b.json").read_text())
    assert int(fractions["L2H1"] * 64 * 24) == budget["tokens"][2][1]


def test_export_takes_the_options_of_the_format(heads: Path) -> None:
    succeed("import", heads, "--from", "headkv", "--out", "run", "--kv-heads", "4")
    options = ["--reduce", "mean", "--sparsity", "0.25", "--sinks", "16", "--recent", "64"]
    result = succeed("export", "run", "--to", "duo", "--out", "pattern", *options)
    assert "the 2 query heads of a KV head were reduced by mean" in result.stderr
    assert "18 of 24 KV heads are kept whole" in result.stderr
    config = json.loads(Path("pattern/config.json").read_text())
    assert (config["sink_size"], config["recent_size"], config["sparsity"]) == (16, 64, 0.25)


def test_the_sizes_of_a_models_directory_are_taken(heads: Path) -> None:
    shutil.copytree(bundled("models", "nano"), "mine")
    result = succeed("import", heads, "--from", "headkv", "--out", "run", "--model", "mine")
    assert "6 layers of 8 query and 4 KV heads" in result.stderr
    assert "warning" not in result.stderr
    shown = succeed("show", "run", "--json").json()
    assert (shown["model"]["id"], shown["model"]["architecture"]) == ("mine", "llama")
    heads.write_text('{"0-0": [1.0]}')
    error = refusal("import", heads, "--from", "headkv", "--out", "run", "--model", "mine")
    assert str(error) == "`model=mine`: heads.json holds 1 layers of 1 query heads"


def test_the_sizes_of_an_alias_are_taken(heads: Path) -> None:
    result = succeed("import", heads, "--from", "headkv", "--out", "run", "--model", "nano")
    assert "6 layers of 8 query and 4 KV heads" in result.stderr
    assert "warning" not in result.stderr
    assert succeed("show", "run", "--json").json()["model"]["head_dim"] == 32
    table = {f"{layer}-{head}": [head / 32] for layer in range(32) for head in range(32)}
    heads.write_text(json.dumps(table))
    arguments = ["import", heads, "--from", "headkv", "--out", "llama", "--model", "llama3-8b"]
    succeed(*arguments)
    model = succeed("show", "llama", "--json").json()["model"]
    assert (model["id"], model["kv_heads"]) == ("meta-llama/Meta-Llama-3-8B-Instruct", 8)
    error = refusal(*arguments, "--kv-heads", "16")
    assert "kv_heads was 8, now 16" in error.message
    succeed(*arguments, "--kv-heads", "16", "--overwrite")
    assert succeed("show", "llama", "--json").json()["model"]["kv_heads"] == 16
    heads.write_text('{"0-0": [1.0]}')
    error = refusal(*arguments, "--heads", "16")
    assert error.exit_code == 2
    given = "`model=llama3-8b` and `heads=16`"
    assert str(error) == f"{given}: heads.json holds 1 layers of 1 query heads"


def test_what_a_file_does_not_say_is_a_warning(heads: Path) -> None:
    result = succeed("import", heads, "--from", "headkv", "--out", "run")
    assert "warning: the file holds query heads: took as many KV heads, 8 a layer" in result.stderr


def test_list_formats_says_what_is_written_and_read_and_by_whom() -> None:
    rows = succeed("list", "formats", "--json").json()
    assert [row["format"] for row in rows] == list(FORMATS)
    duo = rows[1]
    assert (duo["writes"], duo["reads"]) == ("scores, budgets", "scores")
    assert "LServe" in duo["programs"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["export", "run", "--to", "snap", "--out", "x"], 2, "no format 'snap'; choose from"),
        (["export", "missing", "--to", "headkv", "--out", "x"], 2, "no scores at missing"),
        (["export", "missing.json", "--to", "duo", "--out", "x"], 2, "no budget file at missing"),
        (["export", "--to", "headkv", "--out", "x"], 2, "no run under outputs/"),
        (
            ["export", "run", "--to", "duo", "--out", "x", "--beta", "2"],
            2,
            "beta: format duo takes",
        ),
        (["export", "run", "--to", "kvpress", "--out", "x.npy", "--beta", "0"], 2, "beta=0"),
        (["export", "budget.json", "--to", "duo", "--out", "x"], 2, "keeps a head whole or lets"),
        (["export", "budget.json", "--to", "headkv", "--out", "x"], 2, "holds scores, not budgets"),
        (["import", "missing", "--from", "duo", "--out", "x"], 2, "no file at missing"),
        (["import", "heads.json", "--from", "snap", "--out", "x"], 2, "no format 'snap'"),
        (["import", "cut.json", "--from", "headkv", "--out", "x"], 1, "not JSON, or cut short"),
        (["import", "heads.json", "--from", "duo", "--out", "x"], 1, "not a valid duo file"),
        (["import", "heads.json", "--from", "kvzip", "--out", "x"], 1, "not a valid kvzip file"),
        (["import", "heads.json", "--from", "headkv", "--out", "cut.json"], 2, "is no directory"),
        (["export", "run", "--to", "duo", "--out", "cut.json"], 2, "cut.json is no directory"),
    ],
)
def test_bad_input_is_one_clear_line(
    arguments: list[str], code: int, message: str, heads: Path
) -> None:
    succeed("import", heads, "--from", "headkv", "--out", "run", "--kv-heads", "4")
    succeed("allocate", "run", "--budget", "64", "--out", "budget.json")
    Path("cut.json").write_text(heads.read_text()[:100])
    error = refusal(*arguments)
    assert error.exit_code == code
    assert message in str(error)
    assert not Path("x").exists()


@pytest.mark.slow
def test_a_directory_called_json_is_a_run_and_a_budget_may_shout(heads: Path) -> None:
    run = Path("run.json")
    succeed("import", heads, "--from", "headkv", "--out", run, "--kv-heads", "4")
    assert succeed("show", run, "--json").json()["task"] == "headkv"
    assert succeed("plot", run).stdout.strip() == "run.json/heads.png"
    succeed("export", run, "--to", "headkv", "--out", "again.json")
    succeed("allocate", run, "--budget", "64", "--out", "b.JSON")
    assert succeed("show", "b.JSON", "--json").json()["window"] == 8
    assert succeed("plot", "b.JSON").stdout.strip() == "b.png"
    succeed("export", "b.JSON", "--to", "csv", "--out", "b.csv")

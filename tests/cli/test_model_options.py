"""What the three commands that run a model take of it, and what they refuse in one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from headprobe.cli.ablate import ablate
from headprobe.cli.evaluate import evaluate
from headprobe.cli.score import score
from headprobe.errors import HeadprobeError

app = typer.Typer(pretty_exceptions_enable=False)
for command in (score, evaluate, ablate):
    app.command()(command)


def refusal(*arguments: str) -> str:
    error = CliRunner().invoke(app, [*arguments]).exception
    assert isinstance(error, HeadprobeError), error
    assert "\n" not in str(error)
    return str(error)


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of nano with eager attention."""
    out = tmp_path_factory.mktemp("scored") / "run"
    run = ["--lengths", "128", "--limit", "2", "--device", "cpu", "--attention", "eager"]
    done = CliRunner().invoke(app, ["score", *run, "--out", str(out)])
    assert done.exit_code == 0, done.exception
    return out


@pytest.mark.parametrize("command", ["score", "evaluate", "ablate"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--attention", "flex_attention"], "does not show what each head attends to"),
        (["--attention", "flash_attention_2"], "it runs on CUDA and not on cpu"),
        (["--revision", "main"], "--revision is one of the hub: nano lies on this machine"),
        (["--adapter", "nowhere"], "--adapter nowhere: no adapter_config.json there"),
        (["--max-context", "100", "--lengths", "128"], "prompts take at most 36 of it"),
        (["--model", "./missing.gguf"], "no such file"),
        (["--model", "some/model:x-00001-of-00002.gguf"], "part 1 of 2 of a model"),
    ],
)
def test_an_option_that_cannot_be_met_is_one_line(
    command: str, arguments: list[str], message: str, scored: Path, tmp_path: Path
) -> None:
    of = {"score": [], "evaluate": ["--scores", str(scored)], "ablate": [str(scored)]}[command]
    out = ["--out", str(tmp_path / "out"), "--device", "cpu"]
    assert message in refusal(command, *of, *arguments, *out)


def test_scores_of_eager_attention_are_those_of_sdpa(scored: Path, tmp_path: Path) -> None:
    run = ["--lengths", "128", "--limit", "2", "--device", "cpu", "--json"]
    plain = CliRunner().invoke(app, ["score", *run, "--out", str(tmp_path / "sdpa")])
    eager = CliRunner().invoke(
        app, ["score", *run, "--out", str(tmp_path / "e"), "--attention", "eager"]
    )
    heads = [json.loads(done.stdout)["heads"] for done in (plain, eager)]
    for one, other in zip(*heads, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)

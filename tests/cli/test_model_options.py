"""What the three commands that run a model take of it, and what they refuse in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headprobe.scores import HeadScores
from tests._support.command_line import headprobe, succeed


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of nano with eager attention."""
    out = tmp_path_factory.mktemp("scored") / "run"
    run = ["--lengths", "128", "--limit", "2", "--device", "cpu", "--attention", "eager"]
    succeed("score", *run, "--out", out)
    return out


@pytest.mark.parametrize("command", ["score", "evaluate", "ablate"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--attention", "flex_attention"], "does not show what each head attends to"),
        (["--attention", "flash_attention_2"], "it runs on CUDA and not on cpu"),
        (["--revision", "main"], "--revision main: nano lies on this machine and has none"),
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
    done = headprobe(command, *of, *arguments, *out)
    assert done.error is not None
    assert message in done.only_line()


@pytest.mark.slow
def test_scores_of_eager_attention_are_those_of_sdpa(scored: Path, tmp_path: Path) -> None:
    run = ["--lengths", "128", "--limit", "2", "--device", "cpu"]
    succeed("score", *run, "--out", tmp_path)
    sdpa, eager = (HeadScores.load(run_dir) for run_dir in (tmp_path, scored))
    assert (sdpa.plan["attention"], eager.plan["attention"]) == ("sdpa", "eager")
    np.testing.assert_allclose(sdpa.per_case["r2"], eager.per_case["r2"], atol=1e-5)

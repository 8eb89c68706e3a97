from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from headprobe.models.bundled import bundled
from headprobe.scores import HeadScores
from tests._support.command_line import headprobe, succeed

pytestmark = pytest.mark.slow

SMALL = ["--lengths", "256", "--limit", "4"]
MEASURES = ["reach", "reconstruct", "reconstruct_mean", "onthefly", "stability"]


def test_texts_are_read_and_nothing_is_asked(
    scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scored)
    essays = str(bundled("haystack", "english"))
    read = ["score", "--task", "reach", "--measures", "all", "--text", essays, *SMALL]
    done = succeed(*read)
    assert "4 cases, nothing is asked" in done.stderr
    run = HeadScores.load(Path("outputs", "nano", "reach"))
    assert run.measures == tuple(MEASURES)
    assert all(0 <= run.mean(name).min() <= run.mean(name).max() <= 1 for name in MEASURES)
    cases = pd.read_parquet("outputs/nano/reach/cases.parquet")
    assert cases.length.tolist() == [256] * 4
    assert cases.accepted.all()
    assert len(set(map(tuple, cases.input_ids))) == 4
    # The same command has nothing to do; other texts are another run.
    succeed(*read)
    assert json.loads(Path("outputs/nano/reach/run.json").read_text())["resumed_from"] == 4
    refused = headprobe("score", "--task", "reach", "--measures", "all", *SMALL)
    assert refused.returncode == 2
    assert "text was" in refused.stderr
    compared = succeed("compare", "outputs/nano/reach", "outputs/nano/r2")
    assert "reach" in compared.stdout
    succeed("allocate", "outputs/nano/reach", "--measure", "reconstruct", "--budget", "24")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--task", "r2", "--text", "noise"], "--text noise: this task reads no natural text"),
        (["--task", "razor", "--text", "noise"], "--text noise: this task reads no natural text"),
        (["--task", "reach", "--depths", "0"], "--depths 0: this task hides no needles"),
        (["--task", "reach", "--keep-rows", "2"], "--keep-rows 2: this task only reads"),
        (["--task", "reach", "--lengths", "64"], "--lengths 64: too short for a text"),
        (["--task", "reach", "--text", "none.txt"], "none.txt"),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = headprobe("score", *arguments)
    assert refused.returncode == 2
    assert said in refused.stderr
    assert not list(tmp_path.iterdir())

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from headprobe.cli.show import show
from headprobe.models.layout import HeadLayout
from headprobe.scores import FILE_NAME, HeadScores

LAYOUT = HeadLayout(
    id="tiny", architecture="LlamaForCausalLM", layers=2, heads=8, kv_heads=2, head_dim=8
)

app = typer.Typer(pretty_exceptions_enable=False)
app.command()(show)


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def make_run(directory: Path, *, needles: int) -> HeadScores:
    generator = np.random.default_rng(0)
    run = HeadScores(
        layout=LAYOUT,
        task="r2",
        per_case={name: generator.random((24, 2, 8), dtype=np.float32) for name in ("r2", "mass")},
        needles=tuple(case % needles for case in range(24)),
        cases=30,
    )
    run.save(directory / FILE_NAME)
    return run


@pytest.mark.parametrize("measure", ["r2", "mass"])
def test_json_gives_the_reliability_of_the_measure_that_is_shown(
    tmp_path: Path, measure: str
) -> None:
    run = make_run(tmp_path, needles=8)
    result = invoke(tmp_path, "--measure", measure, "--seed", "3", "--json")
    shown = json.loads(result.stdout)["reliability"]
    assert shown == run.reliability(measure, seed=3).to_json()
    assert shown["needles"] == 8


def test_the_table_says_how_firm_the_ranking_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    found = make_run(tmp_path, needles=8).reliability("r2")
    assert found.rank_correlation
    shown = " ".join(invoke(tmp_path).stdout.split())
    assert "r2 of the top 16 of 16 heads" in shown
    value, low = found.rank_correlation.value, found.rank_correlation.ci_low
    assert f"split-half reliability over 8 needles {value:.2f} ({low:.2f} to " in shown
    assert "top 2 of halves overlap by " in shown


def test_too_few_needles_are_said_to_be_too_few(tmp_path: Path) -> None:
    make_run(tmp_path, needles=3)
    shown = " ".join(invoke(tmp_path).stdout.split())
    assert "reliability of the ranking unknown: it takes 4 needles, accepted cases have 3" in shown
    reliability = json.loads(invoke(tmp_path, "--json").stdout)["reliability"]
    assert reliability == {"needles": 3, "k": 2, "rank_correlation": None, "overlap": None}

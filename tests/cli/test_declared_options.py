"""The strategy of docs/extending.md, with its own options and measures, as a user types it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headprobe.models.layout import HeadLayout
from headprobe.scores import HeadScores
from tests._support.command_line import refusal, succeed
from tests._support.strangers import install_examples

LAYOUT = HeadLayout(
    id="tiny", architecture="llama", layers=2, num_heads=4, num_kv_heads=2, head_dim=16
)


@pytest.fixture(autouse=True)
def _installed(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    install_examples(tmp_path_factory.mktemp("site-packages"), monkeypatch)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    numbers = np.arange(8, dtype=np.float32).reshape(1, 2, 4)
    per_case = {"r2": numbers, "mass": 2 * numbers}
    scores = HeadScores(layout=LAYOUT, task="r2", per_case=per_case, needles=(0,), cases=1)
    scores.save(tmp_path / "scores.safetensors")
    return tmp_path


def test_a_strategy_of_another_package_gets_its_options_and_its_measures(run: Path) -> None:
    given = ["--option", "scale=10", "--option", "floor=1"]
    budget = succeed("allocate", run, "--strategy", "mine", *given, "--json").json()
    assert budget["tokens"] == [[8 + 1 + 30, 8 + 1 + 90], [8 + 1 + 150, 8 + 1 + 210]]
    recorded = budget["strategy"]
    assert (recorded["name"], recorded["floor"], recorded["scale"]) == ("mine", 1, 10.0)
    assert recorded["scores"][0]["measures"] == ["r2", "mass"]
    [listed] = [
        row for row in succeed("list", "strategies", "--json").json() if row["strategy"] == "mine"
    ]
    assert (listed["reads"], listed["options"]) == ("r2, mass", "floor, scale")


@pytest.mark.parametrize(
    ("strategy", "given", "option", "value"),
    [
        ("mine", [], "scale", None),
        ("mine", ["--option", "scale=ten"], "option", "scale=ten"),
        ("mine", ["--option", "scale=1", "--beta", "2"], "beta", None),
        ("mine", ["--option", "budget=64"], "option", "budget=64"),
        ("headkv", ["--option", "floor=2"], "option", "floor=2"),
        ("headkv", ["--option", "beta=2", "--beta", "2"], "option", "beta=2.0"),
        ("headkv", ["--option", "beta=0.5"], "beta", 0.5),
    ],
)
def test_an_option_that_a_strategy_does_not_declare_so_is_refused(
    run: Path, strategy: str, given: list[str], option: str, value: object
) -> None:
    error = refusal("allocate", run, "--strategy", strategy, *given)
    assert (error.option, error.value) == (option, value)


def test_the_strategies_of_the_project_declare_their_options_the_same_way(run: Path) -> None:
    typed = succeed("allocate", run, "--option", "beta=2", "--option", "reduce=max", "--json")
    named = succeed("allocate", run, "--beta", "2", "--reduce", "max", "--json")
    assert typed.json() == named.json()


def test_a_format_gets_the_options_that_it_declares(run: Path) -> None:
    for name, given in (("a", ["--option", "sparsity=0.25"]), ("b", ["--sparsity", "0.25"])):
        succeed("export", run, "--to", "razor", "--out", run / f"{name}.json", *given)
    assert (run / "a.json").read_bytes() == (run / "b.json").read_bytes()
    error = refusal("export", run, "--to", "razor", "--out", run / "c.json", "--option", "beta=1")
    assert (error.option, error.value) == ("option", "beta=1")

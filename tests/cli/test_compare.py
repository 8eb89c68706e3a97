from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headprobe.errors import UsageError
from headprobe.models.layout import HeadLayout
from headprobe.scores import FILE_NAME, HeadScores
from headprobe.scores.comparison import compare_needles, compare_runs
from tests._support.command_line import Done, headprobe, refusal
from tests._support.refusals import facts

LAYOUT = HeadLayout(
    id="tiny", architecture="LlamaForCausalLM", layers=2, num_heads=8, num_kv_heads=2, head_dim=8
)


def compare(*arguments: str) -> Done:
    return headprobe("compare", *arguments, columns=200)


def make_run(directory: Path, *, seed: int = 0, measures: tuple[str, ...] = ("r2",)) -> HeadScores:
    generator = np.random.default_rng(seed)
    run = HeadScores(
        layout=LAYOUT,
        task=measures[0],
        per_case={name: generator.random((12, 2, 8), dtype=np.float32) for name in measures},
        needles=tuple(case % 6 for case in range(12)),
        cases=12,
    )
    run.save(directory / FILE_NAME)
    return run


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands look for outputs/ where they are started."""
    monkeypatch.chdir(tmp_path)


def test_json_holds_the_agreement_of_every_two() -> None:
    runs = [(name, make_run(Path(name), seed=i)) for i, name in enumerate(["a", "b", "c"])]
    result = compare("a", "b/scores.safetensors", "c", "--top-k", "4", "--json")
    wanted = compare_runs([("a", runs[0][1]), ("b/scores.safetensors", runs[1][1]), runs[2]], k=4)
    assert result.json() == {
        "subject": "tiny, HeadKV-R2",
        "heads": 16,
        "k": 4,
        "agreements": [asdict(agreement) for agreement in wanted.agreements],
    }
    assert result.stderr == ""


def test_the_table_shows_the_same() -> None:
    make_run(Path("a"))
    make_run(Path("b"), seed=1, measures=("retrieval",))
    shown = compare("a", "b").stdout
    (found,) = compare("a", "b", "--json").json()["agreements"]
    title = "tiny: overlap of the top 2 of 16 heads, 0.12 by chance"
    assert title in " ".join(shown.split())
    row = next(line for line in shown.splitlines() if "│ HeadKV-R2 " in line)
    assert row.replace("│", " ").split() == [
        "HeadKV-R2",
        "retrieval",
        f"{found['rank_correlation']:.4f}",
        f"{found['overlap']:.4f}",
    ]


def test_the_newest_run_is_split_by_needle() -> None:
    run = make_run(Path("outputs/tiny/r2"), measures=("r2", "mass"))
    found = compare("--by-needle", "--measure", "mass", "--json").json()
    wanted = compare_needles(run, measure="mass")
    assert found["agreements"] == [asdict(agreement) for agreement in wanted.agreements]
    assert [a["one"] for a in found["agreements"]] == [f"needle {n}" for n in range(6)]


def test_measures_may_be_named_more_than_once() -> None:
    make_run(Path("a"), measures=("r2", "mass", "echo"))
    options = "--measure", "echo", "--measure", "mass"
    (found,) = compare("a", *options, "--json").json()["agreements"]
    assert (found["one"], found["other"]) == ("echo", "mass")


def test_a_picture_is_drawn_where_wanted(tmp_path: Path) -> None:
    make_run(Path("a"), measures=("r2", "mass"))
    result = compare("a", "--out", "new/compared.svg", "--json")
    assert result.json()
    assert "new/compared.svg" in result.stderr
    assert b"<svg" in (tmp_path / "new/compared.svg").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "wrong", "message"),
    [
        (["a"], {}, "nothing to be compared with"),
        (["a", "missing"], {"path": Path("missing")}, "no scores"),
        (["a", "b", "--measure", "echo"], {"option": "measure", "value": "echo"}, "holds r2"),
        (["a", "b", "--by-needle"], {"option": "by_needle"}, "splits one run by one measure"),
        (["a", "--by-needle", "--measure", "r2", "--measure", "r2"], {"option": "by_needle"}, ""),
        (["a", "b", "--top-k", "17"], {"option": "top_k", "value": 17}, "1 to 16"),
        (["a", "b", "--out", "x.jpg"], {"path": Path("x.jpg")}, ".png, .svg or .pdf"),
        ([], {}, "one ranking has nothing"),
    ],
)
def test_wrong_usage_is_one_clear_line(
    arguments: list[str], wrong: dict[str, Any], message: str
) -> None:
    for name in ("a", "b", "outputs/tiny/r2"):
        make_run(Path(name))
    error = refusal("compare", *arguments)
    assert isinstance(error, UsageError)
    assert facts(error) == wrong
    assert message in error.message

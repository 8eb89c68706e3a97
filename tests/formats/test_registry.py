from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import numpy as np
import pytest

import headprobe.formats
from headprobe.budgets import HeadBudgets
from headprobe.errors import HeadprobeError, UsageError
from headprobe.formats import (
    FORMATS,
    Format,
    export_budget,
    export_scores,
    format_names,
    get_format,
)
from headprobe.scores import HeadScores
from tests._support.query_statistics import statistics
from tests._support.refusals import refused

NAMES = {
    "headkv": "heads.json",
    "duo": "pattern",
    "kvpress": "curve.npy",
    "attention-matching": "fractions.json",
    "rtp-llm": "heads.json",
    "razor": "heads.pt",
    "kvzip": "heads.pt",
    "compresskv": "heads.json",
    "qrhead": "heads.yaml",
    "triattention": "calibration.pt",
    "matrix": "heads.npy",
    "csv": "heads.csv",
    "safetensors": "heads.safetensors",
}
WRITTEN = [name for name in NAMES if name not in ("qrhead", "matrix")]
WITHOUT_MEASURE = ("csv", "safetensors", "triattention")
MINE = Format(summary="mine", file=".txt", programs="mine", write_scores=lambda run, path: ())


def test_the_formats_are_those_promised() -> None:
    assert list(FORMATS) == list(NAMES)
    reading = {name for name, entry in FORMATS.items() if entry.read}
    of_others = {"headkv", "duo", "attention-matching", "kvzip", "razor", "qrhead"}
    assert reading == of_others | {"matrix", "csv", "safetensors"}
    assert [name for name, entry in FORMATS.items() if entry.write_scores] == WRITTEN


@pytest.mark.parametrize("name", WRITTEN)
def test_every_format_writes_the_same_file_each_time_and_leaves_no_other(
    name: str, make_run: Callable[..., HeadScores], tmp_path: Path
) -> None:
    contents = []
    for folder in (tmp_path / "first", tmp_path / "again"):
        run = make_run(query_statistics=statistics())
        export_scores(run, folder / NAMES[name], to=name)
        contents.append(
            {
                path.relative_to(folder): path.read_bytes()
                for path in sorted(folder.rglob("*"))
                if path.is_file()
            }
        )
    assert contents[0] == contents[1]
    assert len(contents[0]) == (3 if name == "duo" else 1)


@pytest.mark.parametrize("name", [n for n in WRITTEN if n not in WITHOUT_MEASURE])
def test_every_format_takes_the_measure_that_is_asked_for(
    name: str, make_run: Callable[..., HeadScores], tmp_path: Path
) -> None:
    draw = np.random.default_rng(0)
    run = make_run(per_case={m: draw.random((5, 3, 8)) for m in ("r2", "mass")})
    alone = make_run(per_case={"mass": run.per_case["mass"]})
    for folder, which, measure in (("both", run, "mass"), ("alone", alone, None)):
        export_scores(which, tmp_path / folder / NAMES[name], to=name, measure=measure)
    files = [p for p in (tmp_path / "both").rglob("*") if p.is_file()]
    for path in files:
        other = tmp_path / "alone" / path.relative_to(tmp_path / "both")
        assert path.read_bytes() == other.read_bytes()
    with refused("the run holds", option="measure", value="echo"):
        export_scores(run, tmp_path / NAMES[name], to=name, measure="echo")


@pytest.mark.parametrize("name", [n for n, entry in FORMATS.items() if entry.write_budget])
def test_every_format_of_budgets_writes_one(
    name: str, streaming_budget: HeadBudgets, tmp_path: Path
) -> None:
    options = {"context_length": 1000} if name in ("kvpress", "attention-matching") else {}
    export_budget(streaming_budget, tmp_path / NAMES[name], to=name, **options)
    assert (tmp_path / NAMES[name]).exists()


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_says_what_it_is(name: str) -> None:
    entry = FORMATS[name]
    module = sys.modules[(entry.write_scores or entry.read).__module__]
    assert module.__doc__
    assert entry.programs
    for function in (entry.write_scores, entry.write_budget, entry.read):
        assert function is None or inspect.getdoc(function)


def test_wrong_usage_says_what_is_possible(
    make_run: Callable[..., HeadScores], make_budget: Callable[..., HeadBudgets]
) -> None:
    with refused("choose from headkv, duo, kvpress", value="snap"):
        export_scores(make_run(), Path("x"), to="snap")
    with pytest.raises(UsageError, match="format kvzip holds scores, not budgets"):
        export_budget(make_budget(), Path("x"), to="kvzip")
    for export, what in ((export_scores, make_run()), (export_budget, make_budget())):
        with pytest.raises(UsageError, match="format qrhead is only read"):
            export(what, Path("x"), to="qrhead")
    with refused("format kvpress .* it takes `context_length`", option="beta"):
        export_budget(make_budget(), Path("x"), to="kvpress", beta=1.2)


def test_other_packages_add_formats_and_cannot_replace_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    group = "headprobe.formats"
    installed = EntryPoints(
        [
            EntryPoint("mine", "headprobe.formats:MINE", group),
            EntryPoint("duo", "headprobe.formats:MINE", group),
            EntryPoint("broken", "headprobe.formats:nothing", group),
        ]
    )
    monkeypatch.setattr(headprobe.formats, "MINE", MINE, raising=False)
    monkeypatch.setattr("headprobe.registry.entry_points", installed.select)
    assert format_names() == [*FORMATS, "broken", "mine"]
    assert get_format("mine") is MINE
    assert get_format("duo") is FORMATS["duo"]
    with pytest.raises(HeadprobeError, match="cannot load format 'broken' from"):
        get_format("broken")

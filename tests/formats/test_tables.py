from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors import safe_open

from headprobe.budgets import HeadBudgets
from headprobe.errors import HeadprobeError, UsageError
from headprobe.formats import export_budget, export_scores
from headprobe.formats.import_run import KnownModel, import_run
from headprobe.scores import HeadScores
from tests._support.refusals import refused


def test_a_runs_table_has_a_row_a_head(make_run: Callable[..., HeadScores], tmp_path: Path) -> None:
    run = make_run()
    export_scores(run, tmp_path / "heads.csv", to="csv")
    table = pd.read_csv(tmp_path / "heads.csv")
    assert len(table) == 24
    assert list(table["kv_head"][:8]) == [0, 0, 1, 1, 2, 2, 3, 3]
    np.testing.assert_allclose(table["score"], run.mean("r2").ravel(), rtol=1e-5)


def test_a_budgets_table_says_which_heads_it_is_of(
    streaming_budget: HeadBudgets, make_budget: Callable[..., HeadBudgets], tmp_path: Path
) -> None:
    export_budget(streaming_budget, tmp_path / "kv.csv", to="csv")
    table = pd.read_csv(tmp_path / "kv.csv")
    assert list(table.columns) == ["layer", "kv_head", "selection", "tokens", "ratio"]
    assert table.iloc[5].tolist() == [1, 1, "streaming", 64, 0.0]
    by_query = make_budget(
        granularity="query",
        selection=np.full((3, 8), "attention"),
        tokens=np.arange(24).reshape(3, 8),
        ratio=np.zeros((3, 8)),
    )
    export_budget(by_query, tmp_path / "query.csv", to="csv")
    table = pd.read_csv(tmp_path / "query.csv")
    assert list(table.columns)[:2] == ["layer", "head"]
    assert list(table["tokens"]) == list(range(24))


def test_a_run_as_safetensors_is_a_run(make_run: Callable[..., HeadScores], tmp_path: Path) -> None:
    run = make_run()
    export_scores(run, tmp_path / "heads.safetensors", to="safetensors")
    back = HeadScores.load(tmp_path / "heads.safetensors")
    np.testing.assert_array_equal(back.per_case["r2"], run.per_case["r2"])


def test_a_budget_as_safetensors_holds_its_matrices(
    streaming_budget: HeadBudgets, tmp_path: Path
) -> None:
    export_budget(streaming_budget, tmp_path / "budget.safetensors", to="safetensors")
    with safe_open(tmp_path / "budget.safetensors", framework="numpy") as file:
        header = json.loads(file.metadata()["headprobe"])
        tokens, ratio, streaming = (
            file.get_tensor(name) for name in ("tokens", "ratio", "streaming")
        )
    np.testing.assert_array_equal(tokens, streaming_budget.tokens)
    np.testing.assert_array_equal(ratio, streaming_budget.ratio)
    assert streaming.dtype == np.bool_
    assert streaming.all()
    assert (header["granularity"], header["sinks"]) == ("kv", 4)
    assert "tokens" not in header


def test_tables_of_all_measures_take_no_measure(
    make_run: Callable[..., HeadScores], tmp_path: Path
) -> None:
    with refused("format csv .* it takes none", option="measure"):
        export_scores(make_run(), tmp_path / "heads.csv", to="csv", measure="r2")


def test_our_own_table_comes_back(make_run: Callable[..., HeadScores], tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    run = make_run(per_case={name: draw.random((5, 3, 8)) for name in ("r2", "mass")})
    export_scores(run, tmp_path / "heads.csv", to="csv")
    back, notes = import_run(tmp_path / "heads.csv", tmp_path / "run", source="csv")
    assert back.measures == ("r2", "mass")
    assert back.layout.num_kv_heads == 4
    for measure in run.measures:
        np.testing.assert_allclose(back.mean(measure), run.mean(measure), rtol=1e-6)
    assert notes == (
        "nothing says how many layers the model has: took the 3 of the rows; give `layers` or "
        "`model` to have it checked",
    )


def test_our_own_scores_come_back_whole(
    make_run: Callable[..., HeadScores], tmp_path: Path
) -> None:
    run = make_run(needles=(0, 0, 1, 1, 2), plan={"seed": 3, "needles": "bundled english"})
    run.save(tmp_path / "theirs.safetensors")
    back, notes = import_run(
        tmp_path / "theirs.safetensors", tmp_path / "run", source="safetensors"
    )
    assert (back.layout, back.task, back.needles) == (run.layout, "r2", run.needles)
    np.testing.assert_array_equal(back.per_case["r2"], run.per_case["r2"])
    np.testing.assert_array_equal(back.mean("r2"), run.mean("r2"))
    assert (back.plan["seed"], back.plan["imported"]) == (3, "safetensors")
    assert notes == ()
    with pytest.raises(UsageError, match=r"`layers=4`: .*holds 3 layers"):
        import_run(
            tmp_path / "theirs.safetensors",
            tmp_path / "other",
            source="safetensors",
            known=KnownModel(layers=4),
        )


@pytest.mark.parametrize("text", ["layer,head,score\n", "Head; LAYER ;score\n"])
def test_a_table_of_layer_head_and_score_is_read(tmp_path: Path, text: str) -> None:
    mark = ";" if ";" in text else ","
    cells = [(0, 0, 0.5), (1, 0, 1.0), (1, 1, -2.0), (0, 1, 1e-3)]
    if mark == ";":
        cells = [(head, layer, score) for layer, head, score in cells]
    rows = "".join(mark.join(map(str, row)) + "\r\n" for row in cells)
    (tmp_path / "heads.csv").write_text(text + rows)
    known = KnownModel(layers=2, kv_heads=1)
    run, notes = import_run(tmp_path / "heads.csv", tmp_path / "run", source="csv", known=known)
    np.testing.assert_allclose(run.mean("csv"), [[0.5, 1e-3], [1.0, -2.0]])
    assert notes == ()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("layer,head,score\n0,0,1\n0,0,1\n", "line 3: layer 0, head 0 is there twice"),
        ("layer,head,score\n0,0,1\n1,1,1\n", "it lacks layer 0, head 1 of csv"),
        ("layer,head,score\n0,0,1\n0,1,1\n1,0,1\n", "it lacks layer 1, head 1 of csv"),
        ("layer,head,score\n1,1,1\n1,2,1\n", "it lacks layer 0, head 0 of csv"),
        ("layer,head,score\n0,0,nan\n", "layer 0, head 0 of csv: expected finite"),
        ("layer,head,score\n0,0,x\n", "line 2: expected a number, got 'x'"),
        ("layer,head,score\n0,0,1_0\n", "line 2: expected a number, got '1_0'"),
        ("layer,head,score\n-1,0,1\n", "line 2: expected the number of a layer or a head"),
        ("layer,head,score\n0,0.0,1\n", "line 2: expected the number of a layer or a head"),
        ("layer,head,score\n999,999,1\n", "32,768 heads are the most"),
        (
            "layer,kv_head,tokens\n0,0,1\n",
            "it lacks the column head; it has ['layer', 'kv_",
        ),
        ("layer,head,kv_head,score\n0,0,1,1\n0,1,0,1\n", "column kv_head: expected 2 heads in 2"),
        ("layer,head,score,measure\n0,0,1,a.b\n", "expected the name of a measure, got 'a.b'"),
        ("layer,head,score\n", "it names no head"),
        ("layer,head,score\n0,0\n", "line 2: expected 3 cells, got 2"),
    ],
)
def test_a_table_with_a_fault_is_one_clear_line(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "heads.csv").write_text(text)
    with pytest.raises(HeadprobeError) as error:
        import_run(tmp_path / "heads.csv", tmp_path / "run", source="csv")
    assert problem in str(error.value)
    assert not (tmp_path / "run").exists()

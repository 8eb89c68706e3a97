from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import safe_open

from headprobe.budgets import HeadBudgets
from headprobe.formats import export_budget, export_scores
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

"""docs/extending.md, followed to the letter: one file of another package adds what it says."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

from headprobe.compression.selections import get_selection
from tests._support.command_line import succeed
from tests._support.strangers import install_examples


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    install_examples(folder, monkeypatch)


def test_a_measure_in_one_file_scores_heads_and_a_strategy_beside_it_allocates(
    tmp_path: Path,
) -> None:
    run = tmp_path / "run"
    few = ["--lengths", "128", "--depths", "0,100", "--limit", "2"]
    succeed("score", *few, "--measures", "r2,mass,newest", "--out", run)
    heads = pd.read_csv(run / "heads.csv")
    newest = heads[heads.measure == "newest"]
    assert len(newest) == 6 * 8
    # A query's attention on its own token is a probability: above 0, and of all tokens a part.
    assert (newest["score"] > 0).all()
    tensors = load_file(run / "scores.safetensors")
    assert tensors["newest.per_case"].shape == (2, 6, 8)
    np.testing.assert_allclose(tensors["newest"].ravel(), newest["score"], atol=1e-6)
    assert "newest" in succeed("show", run, "--measure", "newest").stdout
    budget = succeed("allocate", run, "--strategy", "mine", "--option", "scale=40", "--json").json()
    assert budget["strategy"]["name"] == "mine"


def test_a_selection_in_one_file_chooses_entries_in_allocate_and_evaluate(tmp_path: Path) -> None:
    run, out = tmp_path / "run", tmp_path / "evaluation"
    few = ["--lengths", "128", "--depths", "0", "--limit", "1"]
    succeed("score", *few, "--out", run)
    file = tmp_path / "budget.json"
    written = succeed(
        *("allocate", run, "--selection", "keynorm", "--budget", "24"),
        *("--strategy", "uniform", "--out", file, "--json"),
    ).json()
    assert {name for layer in written["selection"] for name in layer} == {"keynorm"}
    asked = [*few, "--max-new-tokens", "1", "--seed", "5"]
    succeed("evaluate", "--budget", file, *asked, "--out", out)
    results = pd.read_csv(out / "results.csv")
    assert "keynorm" in set(results["selection"])
    view: Any = SimpleNamespace(keys=torch.tensor([[[3.0, 4.0], [0.0, 1.0]]]))
    assert get_selection("keynorm").score(view).worth.tolist() == [[-5, -1]]


def test_what_another_package_brings_is_listed_with_its_summary() -> None:
    for kind, name, summary in (
        ("measures", "newest", "attention of a query on its own token"),
        ("strategies", "mine", "weighs two measures"),
        ("selections", "keynorm", "the shortest keys"),
    ):
        rows = succeed("list", kind, "--json").json()
        assert [row for row in rows if name in row.values() and summary in row.values()]

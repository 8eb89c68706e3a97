"""docs/extending.md, followed to the letter: one file of another package adds what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

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


def test_what_another_package_brings_is_listed_with_its_summary() -> None:
    for kind, name, summary in (
        ("measures", "newest", "attention of a query on its own token"),
        ("strategies", "mine", "weighs two measures"),
    ):
        rows = succeed("list", kind, "--json").json()
        assert [row for row in rows if name in row.values() and summary in row.values()]

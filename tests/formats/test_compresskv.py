from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from headprobe.errors import HeadprobeError
from headprobe.formats import export_scores
from headprobe.scores import HeadScores


def test_the_program_takes_each_layers_best_query_heads(
    make_run: Callable[..., HeadScores], tmp_path: Path
) -> None:
    run = make_run()
    assert export_scores(run, tmp_path / "heads.json", to="compresskv") == ()
    rankings = json.loads((tmp_path / "heads.json").read_text())
    important = torch.tensor([rankings[str(layer)] for layer in range(len(rankings))])[:, :4]
    for layer, chosen in enumerate(important.tolist()):
        assert chosen == sorted(range(8), key=lambda head: -run.mean("r2")[layer, head])[:4]
    assert all(sorted(heads) == list(range(8)) for heads in rankings.values())


def test_equal_scores_are_ranked_by_number_and_flat_layers_are_named(
    make_run: Callable[..., HeadScores], tmp_path: Path
) -> None:
    cases = np.zeros((1, 3, 8))
    cases[0, 1, 6] = 1
    notes = export_scores(make_run(cases), tmp_path / "heads.json", to="compresskv")
    assert notes == ("layers where all heads score the same are ranked by number: [0, 2]",)
    rankings = json.loads((tmp_path / "heads.json").read_text())
    assert rankings["1"] == [6, 0, 1, 2, 3, 4, 5, 7]


def test_a_table_of_zeros_is_refused(make_run: Callable[..., HeadScores], tmp_path: Path) -> None:
    with pytest.raises(HeadprobeError, match="all r2 scores are zero"):
        export_scores(make_run(np.zeros((1, 3, 8))), tmp_path / "heads.json", to="compresskv")

"""The notebooks run on a pretrained chat model."""

from __future__ import annotations

from pathlib import Path

import pytest

from headprobe.models.loading import LoadedModel
from tests._support.notebooks import NOTEBOOKS, run_notebook
from tests.real.fetch import NAME

pytestmark = [
    pytest.mark.real,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning"),
]
TOLD = {"find-retrieval-heads": " cases passed", "budget-to-kvpress": "(99, 30, 3)"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_on_smollm2(path: Path, tmp_path: Path, smollm2: LoadedModel) -> None:
    model = Path(__file__).parents[2] / ".models" / NAME
    assert TOLD[path.stem] in run_notebook(path, tmp_path, model=str(model))

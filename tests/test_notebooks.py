"""The notebooks run from top to bottom on the bundled model, and carry no outputs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests._support.notebooks import NOTEBOOKS, run_notebook

# What the kernel's libraries say of themselves.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning")
TOLD = {
    "find-retrieval-heads": ("24 of 24 cases passed", "Figure", "Reliability(needles=24"),
    "budget-to-kvpress": ("fraction=0.000976", "of the prompt's entries are kept", "(99, 6, 4)"),
}


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_on_the_bundled_model(path: Path, tmp_path: Path) -> None:
    told = run_notebook(path, tmp_path, model="nano")
    for words in TOLD[path.stem]:
        assert words in told


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs_and_small(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)
    assert path.stat().st_size < 10_000

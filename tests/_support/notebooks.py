"""The notebooks of docs/notebooks, run as a person runs them: in a kernel, from top to bottom."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def run_notebook(path: Path, folder: Path, *, model: str) -> str:
    """Run a notebook in a folder; return what its cells print and show as text."""
    nbformat = pytest.importorskip("nbformat", reason="needs nbclient")
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient")
    notebook = nbformat.read(path, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    sources = {"HEADPROBE_NOTEBOOK_MODEL": model, "PYTHONPATH": str(FOLDER.parents[1])}
    with patch.dict(os.environ, sources):
        client.execute()
    return "\n".join(_text(output) for cell in notebook.cells for output in cell.get("outputs", ()))


def _text(output: dict[str, Any]) -> str:
    return str(output.get("text") or output.get("data", {}).get("text/plain", ""))

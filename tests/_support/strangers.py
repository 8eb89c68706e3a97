"""The package that docs/extending.md tells a stranger to write, installed as pip would leave it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "extending.md"
NAME = "my_package"


def install_examples(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put all examples of the page into one file, with the entry points that stand beside them."""
    page = PAGE.read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (folder / f"{NAME}.py").write_text("\n".join(examples), encoding="utf-8")
    entries = re.findall(r'\[project\.entry-points\."(.+)"\]\n(\w+) = "(\S+)"', page, re.MULTILINE)
    assert len(entries) == len(examples) == 3
    info = folder / f"{NAME}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\n")
    text = "".join(f"[{group}]\n{name} = {place}\n" for group, name, place in entries)
    (info / "entry_points.txt").write_text(text)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, NAME, raising=False)

"""Models that are not loaded, and the line that says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headprobe.errors import HeadprobeError
from headprobe.models.loading import load_model


def change_json(file: Path, **fields: Any) -> None:
    """Replace fields of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def problem(name: Path | str, expected: type[HeadprobeError] = HeadprobeError) -> str:
    """Return the one line that refuses a model."""
    with pytest.raises(HeadprobeError) as error:
        load_model(str(name), device="cpu")
    assert type(error.value) is expected
    assert "\n" not in str(error.value)
    return str(error.value)

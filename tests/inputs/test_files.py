from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from headprobe.errors import UsageError
from headprobe.inputs.files import csv_rows, json_rows, open_text, read_text


def test_rows_have_their_places(tmp_path: Path) -> None:
    path = tmp_path / "rows"
    path.write_text('\n{"a": "\u2028"}\n\n7\n', encoding="utf-8")
    assert list(json_rows(path, kind="own")) == [("line 2", {"a": "\u2028"}), ("line 4", 7)]
    path.write_text(json.dumps([1, {"a": 2}], indent=1), encoding="utf-8-sig")
    assert list(json_rows(path, kind="own")) == [("entry 1", 1), ("entry 2", {"a": 2})]
    path.write_text('a;b\n1;"2\n3"\n', encoding="utf-8")
    assert list(csv_rows(path, kind="own")) == [("line 3", {"a": "1", "b": "2\n3"})]


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("fifo", "zero", "."):
        with (
            pytest.raises(UsageError, match="it is no regular file"),
            open_text(tmp_path / name, kind="own"),
        ):
            pass
    with pytest.raises(UsageError, match="no own file"):
        read_text(tmp_path / "nowhere", kind="own")


def test_a_file_that_is_too_large_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headprobe.inputs.files.LARGEST_FILE", 100)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n' * 50)
    with pytest.raises(UsageError, match="more than 100 characters: split it"):
        read_text(path, kind="own")
    assert len(list(json_rows(path, kind="own"))) == 50
    path.write_text('{"a": 1}\n' + '"' + "x" * 200 + '"')
    with pytest.raises(UsageError, match="line 2: more than 100 characters"):
        list(json_rows(path, kind="own"))

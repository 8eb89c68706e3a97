from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from headprobe.errors import UsageError
from headprobe.inputs import (
    brief,
    check_leaves,
    csv_rows,
    json_documents,
    json_rows,
    open_text,
    parse_json,
    read_text,
)


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(1).expand(30_000, 30_000),
        {0: [torch.ones(90, 90)] * 90},
        ["x" * 10**6] * 90,
        10**5000,
        {str(i): {"a": [[[[]]]]} for i in range(999)},
        "a\nb\r\nc" * 99,
    ],
    ids=["tensor", "tensors", "texts", "integer", "objects", "lines"],
)
def test_a_brief_representation_is_one_short_line_of_anything(value: Any) -> None:
    text = brief(value)
    assert 0 < len(text) <= 80
    assert "\n" not in text


def test_a_short_value_is_represented_as_it_is() -> None:
    for value in ("a", 7, None, True, [1, 2], {"a": 1.5}, 2.5):
        assert brief(value) == repr(value)


def test_json_is_one_document_with_each_key_once() -> None:
    assert parse_json(' {"a": [1, 2.5, null]}\n') == {"a": [1, 2.5, None]}
    assert list(json_documents('{"a": 1}\n{"a": 2} 3')) == [{"a": 1}, {"a": 2}, 3]
    for text, problem in [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "key 'c' is given twice"),
        ("1 2", "more than one document"),
        ("1 null", "more than one document"),
        ("", "not JSON, or cut short"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("9" * 500, "a number of 500 digits"),
        ("[1,\u00a02]", "not JSON, or cut short"),
    ]:
        with pytest.raises(ValueError, match=problem):
            parse_json(text)


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"a": [0, float("nan")]}, r"a\[1\]: expected a finite number, got nan"),
        ({"a": {"b": -float("inf")}}, r"a\.b: expected a finite number, got -inf"),
        ({"a": 2**64}, "a: expected a number of 64 bits"),
        ([{"a": "\ud83d"}], r"\[0\]\.a has half a surrogate pair"),
        ({"\udc80": 1}, "a field's name has half a surrogate pair"),
    ],
)
def test_leaves_that_others_cannot_read_are_named(document: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check_leaves(document)
    check_leaves({"a": [1, 2.5, None, True, "白鹭", 2**63 - 1]})


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
    monkeypatch.setattr("headprobe.inputs.LARGEST_FILE", 100)
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n' * 50)
    with pytest.raises(UsageError, match="more than 100 characters: split it"):
        read_text(path, kind="own")
    assert len(list(json_rows(path, kind="own"))) == 50
    path.write_text('{"a": 1}\n' + '"' + "x" * 200 + '"')
    with pytest.raises(UsageError, match="line 2: more than 100 characters"):
        list(json_rows(path, kind="own"))

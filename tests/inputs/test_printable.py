from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from headprobe.inputs.printable import brief, plain_cell, printable
from headprobe.scores.tables import write_table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, “quoted” — naïve 日本語 👩‍🚀", "plain, “quoted” — naïve 日本語 👩‍🚀"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x1b[31mred\x07", "\\x1b[31mred\\x07"),
        ("run\udcff", "run\\udcff"),
        ("gpj\u202e.exe\u2028", "gpj\\u202e.exe\\u2028"),
        ("x" * 301, "x" * 148 + "..." + "x" * 148),
    ],
)
def test_a_text_is_one_line_that_shows_what_it_holds(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_long_name_leaves_the_words_around_it() -> None:
    line = printable(f"no model {'a' * 100_000}: give another")
    assert len(line) < 400
    assert line.startswith("no model aaa")
    assert line.endswith("aaa: give another")
    assert len(printable("a b " * 100_000)) == 4000 - 1


@pytest.mark.parametrize("text", ["=1+2", "+1", "-1", "@SUM(A1)"])
def test_a_spreadsheet_takes_no_name_for_a_formula(tmp_path: Path, text: str) -> None:
    assert plain_cell(text) == f"'{text}"
    table = pd.DataFrame({"measure": [text, "r2"], "score": [-1.5, 2.0]})
    write_table(table, tmp_path / "heads.csv")
    back = pd.read_csv(tmp_path / "heads.csv")
    assert back["measure"].tolist() == [f"'{text}", "r2"]
    assert back["score"].tolist() == [-1.5, 2.0]
    write_table(table, tmp_path / "heads.parquet")
    assert plain_cell("a\r\n=b") == "a\\r\\n=b"
    assert pd.read_parquet(tmp_path / "heads.parquet")["measure"][0] == text


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

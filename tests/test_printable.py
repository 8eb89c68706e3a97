from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from headprobe.printable import plain_cell, printable
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

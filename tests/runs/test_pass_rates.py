from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from headprobe.runs.directory import CASES
from headprobe.runs.pass_rates import PassRate, pass_rates
from headprobe.scores import FILE_NAME


def write(run: Path, kinds: list[str | None], passed: list[bool]) -> None:
    table = pd.DataFrame({"needle_id": range(len(kinds)), "kind": kinds, "accepted": passed})
    table.astype({"kind": "string"})[::-1].to_parquet(run / CASES)


def test_each_kind_is_counted_in_the_order_of_the_needles(tmp_path: Path) -> None:
    write(
        tmp_path,
        ["two-hop", "counting", "two-hop", None, "two-hop", "counting"],
        [True, False, True, True, False, False],
    )
    rates = pass_rates(tmp_path)
    assert rates == [
        PassRate(kind="two-hop", cases=3, passed=2),
        PassRate(kind="counting", cases=2, passed=0),
    ]
    assert [rate.fraction for rate in rates] == [pytest.approx(2 / 3), 0]


def test_a_run_may_be_named_by_its_scores(tmp_path: Path) -> None:
    write(tmp_path, ["linking"], [True])
    (tmp_path / FILE_NAME).touch()
    assert pass_rates(tmp_path / FILE_NAME) == [PassRate(kind="linking", cases=1, passed=1)]


def test_without_kinds_or_without_cases_there_are_no_rates(tmp_path: Path) -> None:
    assert pass_rates(tmp_path) == []
    write(tmp_path, [None, None], [True, False])
    assert pass_rates(tmp_path) == []


def test_a_run_from_before_there_were_kinds_has_no_rates(tmp_path: Path) -> None:
    pd.DataFrame({"needle_id": [0], "accepted": [True]}).to_parquet(tmp_path / CASES)
    assert pass_rates(tmp_path) == []

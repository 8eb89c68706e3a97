from __future__ import annotations

from pathlib import Path

import pytest

from headprobe.errors import UsageError
from headprobe.scores import HeadScores
from tests._support.command_line import headprobe, refusal, succeed
from tests._support.reports import make_evaluation, make_run

SCORED = ["score", "--lengths", "128", "--depths", "0,50,100", "--limit", "48"]


def test_the_newest_run_and_what_lies_beside_it_is_reported(scored: Path) -> None:
    make_evaluation(scored / "outputs" / "nano" / "evaluate-r2")
    succeed("allocate", "--budget", "64", cwd=scored)
    done = succeed("report", cwd=scored)
    assert done.stdout.strip() == "outputs/nano/r2/report.html"
    assert "1 run, 1 budget, 1 evaluation in " in done.stderr
    assert "score with --keep-rows 6" in done.stderr
    assert "next: open it in a browser" in done.stderr
    assert (scored / "outputs/nano/r2/report.html").stat().st_size < 1_000_000


@pytest.mark.slow
def test_kept_rows_get_into_the_report_and_out_again(scored: Path) -> None:
    succeed(*SCORED, "--keep-rows", "2", cwd=scored)
    done = succeed("report", "--out", "r.html", cwd=scored)
    assert "--keep-rows" not in done.stderr
    record = succeed("show", "r.html", "--json", cwd=scored).json()
    (run,) = record["runs"]
    assert len(run["kept"]) == 2
    assert run["measures"][0]["summary"]
    scores = HeadScores.load(scored / "outputs" / "nano" / "r2")
    assert run["measures"][0]["rank"] == scores.statistics("r2").rank.tolist()


def test_show_reads_a_report_as_tables(tmp_path: Path) -> None:
    make_run(tmp_path / "r2")
    make_evaluation(tmp_path / "evaluate-r2")
    succeed("report", tmp_path, "--out", tmp_path / "r.html")
    shown = succeed("show", tmp_path / "r.html", "--measure", "contrast", "--top-k", "3").stdout
    assert "contrast of the top 3 of 48 heads; 36 of 40 cases passed" in " ".join(shown.split())
    assert "divided for the report" in shown
    assert "16 questions" in shown
    error = refusal("show", tmp_path / "r.html", "--measure", "locos")
    assert (error.option, error.value) == ("measure", "locos")


def test_what_is_left_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path)
    monkeypatch.setattr("headprobe.report.page.LIMIT", 115_000)
    done = succeed("report", tmp_path)
    assert "left out, to keep the file small: " in done.stderr


def test_an_absent_path_is_wrong_usage(tmp_path: Path) -> None:
    error = refusal("report", tmp_path / "absent")
    assert isinstance(error, UsageError)
    assert headprobe("report", cwd=tmp_path).returncode == 2


@pytest.mark.parametrize("count", ["-1", "65"])
def test_rows_of_so_many_cases_are_refused(count: str, tmp_path: Path) -> None:
    assert headprobe("score", "--keep-rows", count, cwd=tmp_path).returncode == 2

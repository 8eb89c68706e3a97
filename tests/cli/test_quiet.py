"""``--quiet``: nothing but errors, and the path of what was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests._support.command_line import headprobe, succeed

RUN = ["score", "--lengths", "128", "--depths", "50", "--limit", "2", "--out", "run"]


def test_score_says_nothing_but_where_the_run_lies(tmp_path: Path) -> None:
    done = succeed(*RUN, "--quiet", cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("run\n", "")
    # The next command says everything again.
    assert "next: headprobe allocate" in succeed(*RUN, cwd=tmp_path).stderr


@pytest.mark.parametrize(
    ("command", "path"),
    [
        ("allocate --budget 16 --out b.json", "b.json"),
        ("export --to headkv --out h.json", "h.json"),
        ("plot outputs/nano/r2 --out p.svg", "p.svg"),
        ("report --out r.html", "r.html"),
    ],
)
def test_a_command_that_writes_prints_the_path_alone(scored: Path, command: str, path: str) -> None:
    done = succeed(*command.split(), "-q", cwd=scored)
    assert (done.stdout, done.stderr) == (f"{path}\n", "")
    assert (scored / path).is_file()


@pytest.mark.slow
def test_titles_say_model_task_cases_and_prompt(scored: Path) -> None:
    shown = " ".join(succeed("show", cwd=scored, columns=200).stdout.split())
    assert "nano, HeadKV-R2 of the top 20 of " in shown
    assert "of 48 cases passed; prompt raw" in shown
    asked = ["--lengths", "128", "--depths", "50", "--limit", "2"]
    done = succeed("ablate", "--top-k", "1", "--random-draws", "1", *asked, cwd=scored, columns=200)
    assert "; 2 cases; prompt raw" in " ".join(done.stdout.split())
    done = succeed("evaluate", "--budget", "16", *asked, cwd=scored, columns=200)
    assert "; 2 questions; prompt raw" in " ".join(done.stdout.split())


def test_what_was_asked_for_is_shown_still(nano_scored: Path, tmp_path: Path) -> None:
    for command in (["show"], ["list", "tasks"], ["compare", *["outputs/nano/r2"] * 2]):
        loud, quiet = (succeed(*command, *more, cwd=nano_scored) for more in ([], ["--quiet"]))
        assert (quiet.stdout, quiet.stderr) == (loud.stdout, "")
    budget = ["allocate", "--budget", "16", "--out", tmp_path / "b.json", "--json", "--quiet"]
    done = succeed(*budget, cwd=nano_scored)
    assert json.loads(done.stdout)["format"] == "headprobe-budget"
    assert done.stderr == ""


def test_errors_are_told(tmp_path: Path) -> None:
    done = headprobe("show", "--quiet", "nowhere", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.only_line().startswith("error: no scores at nowhere")

"""What a command does not need is not imported: each library costs a part of a second or more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests._support.command_line import succeed

HEAVY = ("torch", "transformers", "pandas", "pyarrow", "matplotlib", "jinja2")
PROGRAM = """
import json, sys
from headprobe.cli.app import main
for arguments in json.loads(sys.argv[1]):
    code = main(arguments)
    imported = [name for name in json.loads(sys.argv[2]) if name in sys.modules]
    print("IMPORTED", json.dumps([code, imported]))
"""


def imported_by(*commands: list[str], cwd: Path) -> list[tuple[int, set[str]]]:
    """The exit code of each of the commands, run in one process, and what is imported by then."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands), json.dumps(HEAVY)],
        capture_output=True,
        text=True,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("IMPORTED ")]
    found = [json.loads(line.removeprefix("IMPORTED ")) for line in lines]
    return [(code, set(names)) for code, names in found]


@pytest.mark.slow
def test_commands_import_only_what_they_need(tmp_path: Path) -> None:
    succeed("score", "--lengths", "128", "--limit", "2", "--out", "run", cwd=tmp_path)
    found = imported_by(
        ["list", "models"],
        ["score", "--lengths", "ten"],
        ["evaluate", "--scores", "missing"],
        ["ablate", "missing"],
        ["allocate", "run", "--budget", "32", "--out", "budget.json"],
        ["export", "run", "--to", "headkv", "--out", "heads.json"],
        ["show", "run"],
        ["report", "run"],
        cwd=tmp_path,
    )
    assert [code for code, _ in found] == [0, 2, 2, 2, 0, 0, 0, 0]
    *others, shown, reported = [names for _, names in found]
    assert not set().union(*others)
    assert not shown & {"torch", "transformers", "matplotlib", "jinja2"}
    assert not reported & {"torch", "transformers", "matplotlib"}


@pytest.mark.slow
def test_scoring_imports_no_pictures_and_plotting_no_model(tmp_path: Path) -> None:
    ((code, scored),) = imported_by(
        ["score", "--lengths", "128", "--limit", "1", "--out", "run"], cwd=tmp_path
    )
    assert code == 0
    assert "matplotlib" not in scored
    ((code, plotted),) = imported_by(["plot", "run", "--out", "run.png"], cwd=tmp_path)
    assert code == 0
    assert not plotted & {"torch", "transformers"}

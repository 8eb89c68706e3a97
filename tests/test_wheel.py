"""The wheel alone, away from the checkout, does what the checkout does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment that holds the wheel, and our dependencies by reference."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "-w", str(folder)],
        check=True,
    )
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "env"], check=True)
    python = folder / "env" / "bin" / "python"
    (wheel,) = folder.glob("headprobe-*.whl")
    subprocess.run([*pip, f"--python={python}", "install", "--no-deps", str(wheel)], check=True)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    # A plain path: .pth files that lie there, our editable install's among them, are not followed.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.parent


def run(command: Path, *arguments: str, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [command, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# One process for many commands, given as JSON; what each prints comes back as JSON.
EACH = """
import contextlib, io, json, sys
from headprobe.cli.app import main
said = []
for arguments in json.loads(sys.argv[1]):
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with contextlib.redirect_stdout(out):
        assert main(arguments) == 0, arguments
    said.append(out.buffer.getvalue().decode())
print(json.dumps(said))
"""


def test_every_command_works_from_the_installed_wheel(installed: Path, tmp_path: Path) -> None:
    place = run(
        installed / "python", "-c", "import headprobe; print(headprobe.__file__)", cwd=tmp_path
    )
    assert place.startswith(str(installed.parent))
    command = installed / "headprobe"
    options = ["--lengths", "128", "--depths", "0,50,100", "--limit", "48"]
    run(command, "score", *options, cwd=tmp_path)
    others = [
        ["plot"],
        ["report", "--out", "report.html"],
        ["allocate", "--budget", "32", "--json"],
        ["show", "report.html", "--json"],
        ["show", "--json"],
        *(
            ["list", registry, "--json"]
            for registry in ("models", "tasks", "strategies", "formats")
        ),
    ]
    said = json.loads(run(installed / "python", "-c", EACH, json.dumps(others), cwd=tmp_path))
    picture, report, *printed = said
    assert (tmp_path / picture.strip()).stat().st_size > 10_000
    assert (tmp_path / report.strip()).stat().st_size > 10_000
    budget, of_report, of_run, *registries = map(json.loads, printed)
    assert budget["format"] == "headprobe-budget"
    assert of_report["runs"]
    assert of_run["task"] == "r2"
    assert len(registries) == 4
    assert all(registries)


def test_the_english_needles_and_haystack_come_with_the_wheel(
    installed: Path, tmp_path: Path
) -> None:
    code = (
        "from headprobe.models.bundled import bundled; "
        "from headprobe.prompts.needles import read_needles; "
        "from headprobe.prompts.haystacks import sentences; "
        "print(len(read_needles(bundled('needles', 'english', 'r2.jsonl')))); "
        "print(next(sentences(str(bundled('haystack', 'english')), seed=0)))"
    )
    count, sentence = run(installed / "python", "-c", code, cwd=tmp_path).splitlines()
    assert int(count) >= 24
    assert len(sentence.split()) > 3

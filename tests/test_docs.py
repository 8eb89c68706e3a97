"""The command lines and the Python of the README and of docs/ run; lines end at 100 columns."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml

from headprobe import __version__
from headprobe.cli.app import app
from tests._support.command_line import headprobe, succeed
from tests.conftest import SCORED

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PYTHON = [ROOT / "README.md", ROOT / "docs" / "python.md"]


def commands(page: Path) -> Iterator[list[str]]:
    """The arguments of each ``headprobe`` in a page's fenced blocks."""
    for block in re.findall(r"```\w*\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            typed = shlex.split(line, comments=True) if "headprobe " in line else []
            if "headprobe" in typed[:1] or typed[:1] == ["torchrun"]:
                yield typed[typed.index("headprobe") + 1 :]


TYPED = {f"{page.name}: {shlex.join(typed)}": typed for page in PAGES for typed in commands(page)}
# What takes no model, no network, and no file that somebody else has made.
QUICK = ("allocate", "plot", "report", "compare", "show", "list", "export")
RUN = {
    name: typed
    for name, typed in TYPED.items()
    if typed[0] in QUICK
    and not {"FORMAT", "hub"} & set(typed)
    and not any(one.startswith("hf:") for one in typed)
}


@pytest.mark.parametrize("typed", TYPED.values(), ids=list(TYPED))
def test_every_command_line_of_the_pages_is_one(typed: list[str]) -> None:
    command = typer.main.get_command(app).commands[typed[0]]  # type: ignore[attr-defined]
    context = command.make_context(typed[0], typed[1:])
    assert context.command is command


@pytest.fixture(scope="module")
def folder(nano_scored: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs and budgets that the pages speak of, all of nano, razor the newest."""
    folder = tmp_path_factory.mktemp("docs")
    shutil.copytree(nano_scored / "outputs", folder / "outputs")
    succeed(*SCORED, "--utility", "--statistics", cwd=folder)
    for task in ("reconstruct", "onthefly", "reach", "stability"):
        succeed("score", "--task", task, "--lengths", "256", "--limit", "2", cwd=folder)
    for task in ("retrieval", "razor"):
        succeed("score", "--task", task, "--lengths", "128", "--limit", "16", cwd=folder)
    for name in ("24", "other"):
        shutil.copytree(folder / "outputs" / "nano" / "r2", folder / "stable" / name)
    for strategy, out in (("headkv", "budget-headkv-128.json"), ("duo", "budget-duo.json")):
        succeed("allocate", "outputs/nano/r2", "--strategy", strategy, "--out", out, cwd=folder)
    return folder


@pytest.mark.parametrize("typed", RUN.values(), ids=list(RUN))
@pytest.mark.slow
def test_the_command_lines_that_need_no_large_model_run(
    folder: Path, tmp_path: Path, typed: list[str]
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    ours = [re.sub(r"outputs/[^/]+/(r2|razor)", r"outputs/nano/\1", one) for one in typed]
    done = headprobe(*ours, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: page.name)
@pytest.mark.slow
def test_the_python_of_a_page_runs_from_top_to_bottom(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: Path
) -> None:
    if page.name == "README.md":
        shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    namespace: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page.name, "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_prose_ends_at_100_columns(page: Path) -> None:
    prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    # A table's row is one line, and so is what has no space to break at.
    rows = ("|", "    ", "![", "<img")
    assert [
        line
        for line in prose.splitlines()
        if len(line) > 100 and " " in line.strip() and not line.startswith(rows)
    ] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_the_pages_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_map_names_every_page() -> None:
    told = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    docs = {page.name for page in PAGES[1:]} - {"index.md"}
    assert {name for name in docs if f"]({name})" not in told} == set()


def test_the_readme_is_read_in_minutes() -> None:
    assert len(PAGES[0].read_text(encoding="utf-8").split()) < 900


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert citation["cff-version"] == "1.2.0"

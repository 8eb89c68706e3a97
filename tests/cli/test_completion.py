"""Shells complete values of options, without waiting for torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from headprobe.cli import completion
from headprobe.compression.selections import selection_names
from headprobe.evaluation.benchmarks.registry import BENCHMARKS
from headprobe.formats import format_names
from headprobe.measures import TEXT_MEASURES, measure_names
from headprobe.models.aliases import ALIASES
from headprobe.tasks import TASKS
from tests._support.command_line import Done, headprobe


def complete(typed: str, cwd: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What bash is offered for the last word."""
    words = f"headprobe {typed}"
    monkeypatch.setenv("_HEADPROBE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    done: Done = headprobe(cwd=cwd)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.split()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("sco", ["score"]),
        ("score --task r", ["r2", "retrieval", "razor", "reconstruct", "reach"]),
        ("ablate --task r", ["r2", "retrieval"]),
        ("score --model llama3.1-8", ["llama3.1-8b"]),
        ("score --measures r2,semantic,lo", ["r2,semantic,locos"]),
        ("show --measure ech", ["echo"]),
        ("allocate --strategy pyr", ["pyramid"]),
        ("evaluate --strategy tun", ["tuned"]),
        ("evaluate --selection attention,stre", ["attention,streaming"]),
        ("evaluate --benchmark rul", ["ruler"]),
        ("export --to attention", ["attention-matching"]),
        ("import --from raz", ["razor"]),
        ("list se", ["selections"]),
        ("allocate out", ["outputs/nano/r2"]),
        ("evaluate --scores out", ["outputs/nano/r2"]),
        ("score --haystack no", []),
    ],
)
def test_values_are_offered(
    nano_scored: Path, monkeypatch: pytest.MonkeyPatch, typed: str, offered: list[str]
) -> None:
    assert complete(typed, nano_scored, monkeypatch) == offered


def test_budgets_and_runs_are_offered_the_newest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = ["nano/r2/scores.safetensors", "x/y/scores.safetensors", "x/y/budget-duo.json"]
    for age, name in enumerate(files):
        path = tmp_path / "outputs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (age, age))
    found = complete("show out", tmp_path, monkeypatch)
    assert found == ["outputs/x/y", "outputs/nano/r2", "outputs/x/y/budget-duo.json"]


def test_every_name_that_there_is_is_offered() -> None:
    assert completion.tasks("") == list(TASKS)
    assert completion.models("") == list(ALIASES)
    assert completion.formats("") == format_names()
    assert completion.selections("") == selection_names()
    assert completion.benchmarks("") == list(BENCHMARKS)
    assert set(completion.measures("")) >= {*measure_names(), *TEXT_MEASURES}


def test_completing_imports_nothing_heavy() -> None:
    code = (
        "import sys; from headprobe.cli import completion\n"
        "for name, value in vars(completion).items():\n"
        "    if getattr(value, '__module__', '') == completion.__name__ and name[0] != '_':\n"
        "        value('')\n"
        "print(sorted({'torch', 'transformers', 'pandas', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

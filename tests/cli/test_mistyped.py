"""What typer refuses is one line of ours on stderr, with its suggestion and exit code 2."""

from __future__ import annotations

import pytest

from tests._support.command_line import headprobe, refusal

# The words that every version of typer has in common.
MISTYPED = {
    "scor": ("no such command 'scor'", "'score'", "; see `headprobe --help`"),
    "--bogus": ("no such option", "--bogus", "; see `headprobe --help`"),
    "score --modle x": ("no such option", "--modle", "--model", "; see `headprobe score --help`"),
    "score --model": ("option '--model' requires an argument",),
    "score --seed x": ("invalid value for '--seed': ",),
    "score --limit=-1": ("invalid value for '--limit': ",),
    "score --prompt chatt": ("invalid value for '--prompt': 'chatt' is not one of 'auto', ",),
    "score extra": ("got unexpected extra argument", "(extra); see `headprobe score --help`"),
    "list": ("missing argument 'REGISTRY'. Choose from: models, tasks, measures, ",),
    "import": ("missing argument 'FILE'; see `headprobe import --help`",),
}


@pytest.mark.parametrize("typed", MISTYPED)
def test_a_mistyped_command_is_one_line(typed: str) -> None:
    error = refusal(*typed.split())
    assert error.exit_code == 2
    first, *others = MISTYPED[typed]
    assert error.message.startswith(first)
    assert all(words in error.message for words in others)
    assert len(headprobe(*typed.split()).stderr.splitlines()) == 1


def test_no_arguments_show_the_help_alone() -> None:
    done = headprobe()
    assert (done.returncode, done.stderr) == (2, "")
    assert "Usage: headprobe" in done.stdout

"""What commands say reads as it was written."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from headprobe.cli import output


@pytest.mark.parametrize("say", [output.note, output.warn, output.fail])
def test_colons_and_brackets_are_no_emoji_and_no_markup(
    say: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    message = "0:100:10, runs/r2:-1, [layer, head] and [red]"
    say(message)
    assert capsys.readouterr().err.splitlines()[0].endswith(message)


def test_the_name_of_what_is_done_is_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = Console(file=screen, force_terminal=True, width=120)
    monkeypatch.setattr(output, "_stderr", lambda: terminal)
    with output.progress("model[red]:100: r2", total=1) as advance:
        advance()
    assert "model[red]:100: r2" in screen.getvalue()


def test_titles_and_cells_of_a_table_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    output.show_table("0:100:10 [red]", ["one :-1"], [["[bold]:100:"]])
    shown = capsys.readouterr().out
    for text in ("0:100:10 [red]", "one :-1", "[bold]:100:"):
        assert text in shown

"""What commands say reads as it was written."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from headprobe.cli import output

Shown = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("say", [output.note, output.warn, output.fail])
def test_colons_and_brackets_are_no_emoji_and_no_markup(
    say: Callable[[str], None], capsys: Shown
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


def test_titles_and_cells_of_a_table_are_no_markup(capsys: Shown) -> None:
    output.show_table("0:100:10 [red]", ["one :-1"], [["[bold]:100:"]])
    shown = capsys.readouterr().out
    for text in ("0:100:10 [red]", "one :-1", "[bold]:100:"):
        assert text in shown


ROWS = [
    ["llama2-7b", "meta-llama/Llama-2-7b-chat-hf", "a model that many papers have measured", 32],
    ["nano", "bundled with headprobe", "small", 6],
]
COLUMNS = ["alias", "loads", "what it is", "layers"]


def table(width: int | None, monkeypatch: pytest.MonkeyPatch, shown: Shown) -> list[str]:
    monkeypatch.delenv("COLUMNS", raising=False)
    if width:
        monkeypatch.setenv("COLUMNS", str(width))
    output.show_table("models", COLUMNS, ROWS)
    return shown.readouterr().out.splitlines()


def test_a_table_in_a_file_is_as_wide_as_it_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: Shown
) -> None:
    lines = table(None, monkeypatch, capsys)
    assert len(lines) == 4 + len(ROWS) + 1
    assert all(str(cell) in lines[4] for cell in ROWS[0])
    assert max(map(len, lines)) < 120


@pytest.mark.parametrize("width", [72, 80, 100])
def test_no_word_is_cut_where_all_have_room(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: Shown
) -> None:
    lines = table(width, monkeypatch, capsys)
    words = {word for row in [COLUMNS, *ROWS] for cell in row for word in str(cell).split()}
    assert words <= set(" ".join(lines).split())
    assert max(map(len, lines)) <= width


def test_where_they_have_no_room_the_table_is_as_wide_as_the_terminal_still(
    monkeypatch: pytest.MonkeyPatch, capsys: Shown
) -> None:
    lines = table(40, monkeypatch, capsys)
    assert max(map(len, lines)) <= 40
    assert any("llama2-7b" in line for line in lines)


def test_colour_in_a_file_does_not_make_it_narrow(
    monkeypatch: pytest.MonkeyPatch, capsys: Shown
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = "\n".join(table(None, monkeypatch, capsys))
    assert "meta-llama/Llama-2-7b-chat-hf" in shown


def test_wide_characters_stay_whole(monkeypatch: pytest.MonkeyPatch, capsys: Shown) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    output.show_table("runs", ["run", "what it is"], [["東京の長い文脈", "a run " * 9]])
    assert "東京の長い文脈" in capsys.readouterr().out

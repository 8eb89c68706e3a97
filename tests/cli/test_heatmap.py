"""The heatmap of ``headprobe show``: two layers a line in colours, shades without them."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.text import Text

from headprobe.cli.heatmap import heatmap, show_heatmap

SCORES = np.arange(24, dtype=np.float32).reshape(3, 8) / 23


def plain(lines: list[Text]) -> list[str]:
    return [line.plain for line in lines]


def test_two_layers_are_the_halves_of_a_line_and_kv_heads_are_set_apart() -> None:
    lines = heatmap(SCORES, group=4, width=80, coloured=True)
    assert plain(lines)[:3] == [
        "    0        4",
        "  0 ▀▀▀▀▀▀▀▀│▀▀▀▀▀▀▀▀",
        "  2 ▀▀▀▀▀▀▀▀│▀▀▀▀▀▀▀▀",
    ]
    assert plain(lines)[3] == f"    0 {'█' * 16} 1"
    # The first span is the label's, which alone is dim.
    upper, lower = (lines[n].spans[1].style for n in (1, 2))
    assert not lines[1].style
    # The lowest score over that of the next layer; the last layer stands alone.
    assert str(upper).startswith("#440154 on #")
    assert " on " not in str(lower)
    assert str(lines[2].spans[-1].style) == "#fde725"


def test_without_colours_each_layer_has_shades() -> None:
    lines = heatmap(SCORES, group=4, width=80, coloured=False)
    assert len(lines) == 5
    assert plain(lines)[1] == "  0       ░░│░░░░░░░░"
    assert plain(lines)[3] == "  2 ▓▓▓▓▓▓▓▓│▓▓██████"
    assert plain(lines)[4] == "    0  ░▒▓█ 1"


def test_scores_with_signs_are_grey_at_zero() -> None:
    signed = np.array([[-1.0, 0.0, 0.5]], dtype=np.float32)
    line = heatmap(signed, group=1, width=80, coloured=True)[1]
    assert [str(span.style) for span in line.spans][1:3] == ["#3b4cc0", "#dddddd"]


@pytest.mark.parametrize(("width", "cells"), [(21, 16), (20, 8), (13, 8), (12, None)])
def test_cells_are_as_wide_as_the_terminal_allows(width: int, cells: int | None) -> None:
    lines = plain(heatmap(SCORES, group=4, width=width, coloured=True))
    assert all(len(line) <= width for line in lines[:-1])
    assert (lines[1].count("▀") if lines else None) == cells


def test_equal_scores_are_drawn() -> None:
    assert len(heatmap(np.ones((2, 4), dtype=np.float32), group=2, width=40, coloured=True)) == 3


class Screen(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "colours", "halves"),
    [({"TERM": "xterm-256color"}, True, True), ({"NO_COLOR": "1", "TERM": "xterm"}, False, False)],
)
def test_a_terminal_is_drawn_on_and_a_file_is_not(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], colours: bool, halves: bool
) -> None:
    monkeypatch.delenv("COLORTERM", raising=False)
    for name, value in (environment | {"COLUMNS": "80"}).items():
        monkeypatch.setenv(name, value)
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    show_heatmap("nano [r2]", SCORES, group=4)
    assert screen.getvalue().count("nano [r2]") == 1
    assert ("38;5;" in screen.getvalue()) is colours
    assert ("▀" in screen.getvalue()) is halves
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    show_heatmap("nano", SCORES, group=4)
    assert sys.stdout.getvalue() == ""  # type: ignore[attr-defined]


def test_show_draws_the_run(nano_scored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headprobe.cli import app

    screen = Screen()
    monkeypatch.chdir(nano_scored)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stdout", screen)
    assert app.main(["show"]) == 0
    assert screen.getvalue().index("HeadKV-R2 of every head") < screen.getvalue().index("rank")
    assert app.main(["show", "--json"]) == 0
    assert screen.getvalue().count("of every head") == 1

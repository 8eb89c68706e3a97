"""The live line of ``headprobe score``: on a terminal only, with what was found so far."""

from __future__ import annotations

import io
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from headprobe.cli import output
from headprobe.cli.live import LiveScores
from headprobe.prompts.case import Case
from headprobe.runs.observation import Observation
from headprobe.stats.reliability import split_half
from tests._support.command_line import succeed

CASE = Case(
    case_id=0,
    needle_id=0,
    length=100,
    depth=0.0,
    position=0,
    input_ids=tuple(range(100)),
    span_start=0,
    span_end=2,
    answer="a",
    wrong_answer=None,
    answer_ids=(1,),
    kind=None,
    question=None,
)


def seen(number: int, *, score: float = 100.0) -> Observation:
    draw = np.random.default_rng(number)
    scores = np.arange(8).reshape(2, 4) + draw.random((2, 4))
    return Observation(
        case_id=number,
        generated_ids=(1,) * 20,
        step_start=0,
        step_end=1,
        response="a",
        score=score,
        scores={"r2": scores.astype(np.float32)},
    )


def test_the_line_tells_what_passed_how_fast_and_how_reliable_the_ranking_is() -> None:
    lines: list[str] = []
    now = [0.0]
    live = LiveScores(lines.append, measure="r2", asks=True, clock=lambda: now[0])
    # An earlier start's cases count, but not for the speed.
    live(CASE, seen(0), False)
    assert lines == []
    for number in (1, 2, 3):
        now[0] += 10.0
        live(replace(CASE, needle_id=number), seen(number), True)
    now[0] += 10.0
    live(replace(CASE, needle_id=9), seen(9, score=0.0), True)
    assert lines[:2] == ["2 passed · 12 tokens/s", "3 passed · 12 tokens/s"]
    found = split_half(
        np.stack([seen(number).scores["r2"] for number in range(4)]), range(4)
    ).rank_correlation
    assert found is not None
    assert lines[2:] == [f"4 passed · 12 tokens/s · reliability {found.value:.2f}"] * 2


def test_the_reliability_takes_little_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now, judged = [0.0], list[float]()

    def judge(self: LiveScores) -> str:
        judged.append(now[0])
        now[0] += 2.0
        return "0.5"

    monkeypatch.setattr(LiveScores, "_judge", judge)
    live = LiveScores(lambda line: None, measure="r2", asks=True, clock=lambda: now[0])
    for number in range(100):
        now[0] += 1.0
        live(CASE, seen(number), True)
    assert len(judged) == 3
    assert all(after - before >= 40 for before, after in pairwise(judged))


def test_cases_that_ask_nothing_do_not_pass() -> None:
    lines: list[str] = []
    live = LiveScores(lines.append, measure="r2", asks=False, clock=iter([0.0, 1.0, 1.0]).__next__)
    live(CASE, seen(0), True)
    assert lines == ["120 tokens/s"]


RUN = ["score", "--lengths", "128", "--depths", "50", "--limit", "3", "--out", "run"]


@pytest.mark.slow
def test_a_terminal_gets_the_line_and_a_pipe_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calm = succeed(*RUN, cwd=tmp_path)
    assert "tokens/s" not in calm.stderr
    assert "\x1b" not in calm.stderr
    screen = io.StringIO()
    monkeypatch.setattr(
        output, "_stderr", lambda: Console(file=screen, force_terminal=True, width=120)
    )
    succeed(*RUN, "--overwrite", cwd=tmp_path)
    shown = screen.getvalue()
    assert "3/3" in shown
    assert "3 passed · " in shown
    assert "tokens/s" in shown
    screen.truncate(0)
    succeed(*RUN, "--overwrite", "--quiet", cwd=tmp_path)
    assert screen.getvalue().strip("\x00") == ""

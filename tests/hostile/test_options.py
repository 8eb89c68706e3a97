"""Options with values that no one means: each command ends well, or by one line."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests._support.command_line import headprobe

RUN = "outputs/nano/r2"
VALUES = (
    *("nan", "inf", "-inf", "1e308", "1e-320", "-0.0", "1e400", "-1", "0", "1000000000"),
    *("5000000000000", "1" + "0" * 30, "9" * 400, "9" * 5000, str(2**31), str(2**63), "0x10"),
    *("1_000", "٣", "", " ", "%", "5%", "-5%", "nan%", "1e9%", "a" * 100_000, "x\ny", "\x1b[31m"),
    *("../..", "=1+2", "\udcff", "r2", "max", "top", "duo"),
)
ALLOCATE = ("allocate", RUN, "--out", "budget.json")
EXPORT = ("export", RUN, "--out")
OPTIONS = {
    (*ALLOCATE,): ("budget", "strategy", "granularity"),
    (*ALLOCATE, "--budget", "16"): ("beta", "window", "context-length", "measure", "reduce"),
    (*ALLOCATE, "--budget", "16", "--strategy", "tuned"): ("min-entries", "fill-to"),
    (*ALLOCATE, "--strategy", "duo"): ("sparsity", "sinks", "recent"),
    (*ALLOCATE, "--strategy", "top"): ("top-k", "recent-fraction"),
    (*ALLOCATE, "--strategy", "threshold"): ("threshold",),
    (*EXPORT, "duo", "--to", "duo"): ("sparsity", "sinks", "recent", "reduce", "measure"),
    (*EXPORT, "press.npy", "--to", "kvpress"): ("beta", "context-length"),
    (*EXPORT, "file.json"): ("to",),
    ("show", RUN): ("top-k", "seed", "measure"),
    ("compare", RUN, RUN): ("top-k", "measure"),
}
PAIRS = [(command, option) for command, options in OPTIONS.items() for option in options]
HUGE = "1" + "0" * 30


@pytest.mark.parametrize(("command", "option"), PAIRS, ids=lambda part: part[:10])
def test_a_command_ends_well_or_by_one_line(
    scored: Path, command: tuple[str, ...], option: str
) -> None:
    draw = random.Random(" ".join((*command, option)))
    for value in draw.sample(VALUES, 8):
        done = headprobe(*command, f"--{option}={value}", cwd=scored)
        assert done.returncode in (0, 1, 2), value
        assert len(done.stderr) < 5_000
        assert "\x1b" not in done.stderr
        if done.error is not None:
            assert done.stderr.splitlines()[-1].startswith("error: ")
            assert done.stdout == ""


@pytest.mark.parametrize("value", [HUGE, "9" * 400, "-" + HUGE])
@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("ablate", "random-draws"),
        ("ablate", "calibration"),
        ("ablate", "seed"),
        ("evaluate", "max-new-tokens"),
        ("evaluate", "window"),
        ("evaluate", "limit"),
        ("score", "max-context"),
        ("score", "prefill-chunk"),
        ("score", "until-stable"),
        ("import", "layers"),
    ],
)
def test_a_huge_number_is_refused_before_anything_is_done(
    tmp_path: Path, command: str, option: str, value: str
) -> None:
    needed = ["file", "--from", "duo", "--out", "out"] if command == "import" else []
    done = headprobe(command, *needed, f"--{option}={value}", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--{option}" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "arguments",
    [
        ["show", "a" * 100_000],
        ["show", "a" * 4000],
        ["show", "a\x1b[31m\nb"],
        ["score", "--model", "\x1b]0;title\x07"],
        ["score", "--\x1b[31mmodel", "nano"],
        ["allocate", RUN, "--budget", "16", "--out", "a" * 300],
        ["allocate", RUN, "--budget", "16", "--out", "b\udcff.json"],
        ["allocate", RUN, "--scores", "\x1b[31m:0.5"],
        ["plot", RUN, "--out", "x\x1b[31m.jpg"],
    ],
)
def test_names_are_shown_cut_and_with_escapes(scored: Path, arguments: list[str]) -> None:
    done = headprobe(*arguments, cwd=scored)
    assert done.returncode in (1, 2)
    line = done.only_line()
    assert len(line) < 1_000
    assert line.isprintable()

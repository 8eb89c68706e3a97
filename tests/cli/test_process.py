"""What others leave in a process: streams, variables and signals."""

from __future__ import annotations

import errno
import gc
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from headprobe.cli.process import DroppingStream, clean_environment, end_quietly, open_streams
from tests._support.command_line import process, succeed
from tests._support.forks import forked

FULL = Path("/dev/full")


@pytest.mark.parametrize("name", ["COLUMNS", "LINES", "TERMINAL_WIDTH"])
@pytest.mark.parametrize(
    ("size", "stays"),
    [
        ("80", True),
        ("9999", True),
        ("0", False),
        ("-5", False),
        ("abc", False),
        ("", False),
        ("99999999999", False),
        ("\uff11\uff12", False),
    ],
)
def test_a_terminals_size_that_is_none_is_forgotten(
    monkeypatch: pytest.MonkeyPatch, name: str, size: str, stays: bool
) -> None:
    monkeypatch.setenv(name, size)
    clean_environment()
    assert (os.environ.get(name) == size) is stays


def test_a_notebooks_backend_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    clean_environment()
    assert "MPLBACKEND" not in os.environ


class FullStream(io.TextIOWrapper):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_what_cannot_be_said_is_dropped() -> None:
    closed = io.TextIOWrapper(io.BytesIO())
    closed.close()
    for stream in (FullStream(io.BytesIO()), closed):
        dropping = DroppingStream(stream)
        assert dropping.write("lost") == 4
        dropping.flush()
    kept = io.BytesIO()
    stream = io.TextIOWrapper(kept, write_through=True)
    DroppingStream(stream).write("said")
    assert kept.getvalue() == b"said"


@pytest.mark.skipif(not FULL.exists(), reason="a device of Linux")
@pytest.mark.parametrize(("streams", "code"), [(">&-", 0), (">&- 2>&- <&-", 0), ("2>/dev/full", 0)])
def test_commands_end_well_whatever_becomes_of_what_they_say(
    scored: Path, streams: str, code: int
) -> None:
    allocate = "allocate outputs/nano/r2 --budget 16 --out b.json"
    typed = f"exec {sys.executable} -m headprobe {allocate} {streams}"
    done = subprocess.run(["sh", "-c", typed], cwd=scored, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False)
    assert (scored / "b.json").is_file()


@pytest.mark.slow
@pytest.mark.skipif(not FULL.exists(), reason="a device of Linux")
@pytest.mark.parametrize(("stream", "code"), [("stdout", 1), ("stderr", 0)])
def test_results_are_written_before_anything_is_said(
    tmp_path: Path, stream: str, code: int
) -> None:
    def fill() -> None:
        setattr(sys, stream, FULL.open("w"))
        open_streams()

    score = ["score", "--lengths", "128", "--depths", "0", "--limit", "2", "--out", "run"]
    (done,) = forked(*score, cwd=tmp_path, first=fill)
    assert done.returncode == code
    assert (tmp_path / "run" / "scores.safetensors").is_file()


# Sends itself a signal while a module is imported; what is imported then may fail of it.
SIGNALLED = """
import builtins, os, sys
from headprobe.__main__ import main
number, module, false = int(sys.argv[1]), sys.argv[2], sys.argv[3] == "false"
sys.argv = ["headprobe", *sys.argv[4:]]
real = builtins.__import__
def late(name, *others, **named):
    if name == module:
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            if false:
                raise ImportError("numpy._core.multiarray failed to import")
            raise
    return real(name, *others, **named)
builtins.__import__ = late
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("number", "module", "false"),
    [
        (signal.SIGINT, "typer", False),
        (signal.SIGINT, "numpy", True),
        (signal.SIGTERM, "numpy", False),
        (signal.SIGHUP, "typer", True),
    ],
)
def test_a_signal_in_the_middle_of_an_import_is_one_line(
    nano_scored: Path, number: int, module: str, false: bool
) -> None:
    kind = "false" if false else "plain"
    # What started the tests may ignore the signal, as a script does for its background jobs.
    heeding = f"import signal; signal.signal({int(number)}, signal.SIG_DFL)" + SIGNALLED
    done = process("-c", heeding, str(int(number)), module, kind, "show", cwd=nano_scored)
    assert (done.returncode, done.stdout) == (128 + number, "")
    assert done.stderr == "error: stopped\n"


IN_DESTRUCTOR = """
import os, signal, sys, time
signal.signal(signal.SIGINT, signal.SIG_DFL)
from headprobe.__main__ import main
from headprobe.cli import output
class Last:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0)
def show_table(*arguments):
    Last()
    time.sleep(20)
output.show_table = show_table
sys.argv = ["headprobe", "show"]
sys.exit(main())
"""


def test_a_signal_in_a_destructor_stops_the_command_all_the_same(nano_scored: Path) -> None:
    done = process("-c", IN_DESTRUCTOR, cwd=nano_scored)
    assert (done.returncode, done.stderr) == (130, "error: stopped\n")


def test_a_process_that_ends_looks_for_no_garbage() -> None:
    try:
        end_quietly()
        assert gc.get_freeze_count() > len(gc.get_objects())
    finally:
        gc.unfreeze()


@pytest.mark.slow
def test_a_home_and_caches_that_cannot_be_used_make_no_noise(scored: Path) -> None:
    unusable = {
        "HOME": "/dev/null",
        "XDG_CACHE_HOME": "/dev/null",
        "XDG_CONFIG_HOME": "/dev/null/none",
        "MPLCONFIGDIR": "/dev/null/none",
        "HF_HOME": "/dev/null",
    }
    done = process("-m", "headprobe", "plot", "--out", "p.svg", cwd=scored, **unusable)
    drawn = "drawing outputs/nano/r2\nnext: headprobe allocate outputs/nano/r2 --budget 128\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, "p.svg\n", drawn)
    unusable["HF_HUB_OFFLINE"] = ""
    model = ["score", "--model", "nobody/nothing"]
    done = process("-m", "headprobe", *model, cwd=scored, **unusable)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith("set HF_HOME to a directory that can be written")


def test_ignored_signals_stay_ignored(nano_scored: Path) -> None:
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)" + SIGNALLED
    done = process("-c", ignoring, "1", "numpy", "plain", "show", cwd=nano_scored)
    assert done.returncode == 0, done.stderr


def test_another_librarys_warning_is_not_shown(nano_scored: Path) -> None:
    code = (
        "import warnings, sys; from headprobe.cli import app, output; "
        "output.note = lambda line: warnings.warn('raw', RuntimeWarning); "
        "sys.exit(app.main(['show']))"
    )
    done = process("-c", code, cwd=nano_scored)
    assert (done.returncode, done.stderr) == (0, "")


def test_verbose_logs_what_is_loaded_planned_and_done(tmp_path: Path) -> None:
    run = ["score", "--lengths", "128", "--depths", "50", "--limit", "2", "--out", "run"]
    log = succeed("--verbose", *run, cwd=tmp_path).stderr.splitlines()
    for name, told in (
        ("models.loading", "loaded nano from"),
        ("runs.memory", "prefill_chunk="),
        ("runs.engine", "0 units were done before"),
        ("runs.result_files", "wrote run/scores.safetensors"),
    ):
        assert any(f" headprobe.{name}: " in line and told in line for line in log), told
    assert "headprobe.runs" not in succeed(*run, cwd=tmp_path).stderr


def test_debugging_shows_the_traceback_before_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests._support.command_line import headprobe

    assert "Traceback" not in headprobe("show", "nowhere", cwd=tmp_path).stderr
    monkeypatch.setenv("HEADPROBE_DEBUG", "1")
    done = headprobe("show", "nowhere", cwd=tmp_path)
    assert done.stderr.startswith("Traceback")
    assert done.stderr.splitlines()[-1].startswith("error: no scores at nowhere")
    succeed("list", "tasks", cwd=tmp_path)

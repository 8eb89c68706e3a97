"""Stop commands at random moments, by kill -9 and by signals, and see that nothing is lost.

    python tests/hostile/chaos.py --kills 100 --signals 100

Each command runs once undisturbed. Then it is started again and again in a directory of its own,
stopped at a random moment of the time that it takes, and given once more: it must end well, with
the same numbers, and leave nothing else behind. After a signal the exit code is 128 and its number,
and stderr has one line. As root, a full disk and a read-only one are tried on a tmpfs of 40 KiB.

Most starts are forks of this process, which has imported everything; every tenth one is a process
of its own, so that signals meet imports too.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "120"}
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = str(ROOT)


from headprobe.__main__ import main as run_headprobe
from headprobe.scores import HeadScores

# What commands import when they run.
for module in ("ablation.run", "evaluation.run", "formats.import_run", "plots", "runs.score"):
    import_module(f"headprobe.{module}")

CASES = ["--lengths", "128", "--depths", "0,50,100"]
COMMANDS = {
    "score": ["score", *CASES, "--limit", "24", "--out", "out"],
    "evaluate": [
        *("evaluate", "--scores", "run", *CASES, "--limit", "6", "--budget", "16,50%"),
        *("--out", "out"),
    ],
    "ablate": [
        *("ablate", "run", *CASES, "--limit", "6", "--top-k", "1,4", "--random-draws", "2"),
        *("--out", "out"),
    ],
    "allocate": ["allocate", "run", "--budget", "16", "--out", "out/budget.json"],
    "export": ["export", "run", "--to", "duo", "--out", "out"],
    "import": ["import", "duo", "--from", "duo", "--heads", "8", "--out", "out"],
}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Reports hold times; pictures and progress are made of the same numbers.
UNLIKE = ("run.json", "evaluation.json", "ablation.json", "progress.sqlite", "scores.safetensors")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended, and what it left on stderr."""

    code: int
    stderr: str
    seconds: float


@dataclass(kw_only=True)
class Tally:
    """What came of the trials of one command."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def start(arguments: list[str], folder: Path, *, fresh: bool) -> int:
    """Start a command in a folder, and return its process's number."""
    if fresh:
        with (folder / "stderr").open("w") as stderr:
            command = [sys.executable, "-m", "headprobe", *arguments]
            return subprocess.Popen(
                command, cwd=folder, stdout=subprocess.DEVNULL, stderr=stderr
            ).pid
    # A signal at the fork itself would be lost in Python's own work there.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return child
    code = 1
    try:
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open("stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), 2)
        sys.argv = ["headprobe", *arguments]
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        code = run_headprobe()
    except KeyboardInterrupt:
        # Before main, where a process of its own would not yet be.
        code = 128 + signal.SIGINT
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(
    arguments: list[str],
    folder: Path,
    *,
    disturb: Callable[[int], None] = lambda process: None,
    after: float = 0.0,
    fresh: bool = False,
) -> Ended:
    """Run a command, disturbed some seconds after its start."""
    begun = time.monotonic()
    process = start(arguments, folder, fresh=fresh)
    found, raw, pending = 0, 0, True
    while not found:
        found, raw = os.waitpid(process, os.WNOHANG)
        if not found and pending and time.monotonic() - begun >= after:
            disturb(process)
            pending = False
        time.sleep(0.002)
    status = os.waitstatus_to_exitcode(raw)
    stderr = (folder / "stderr").read_text() if (folder / "stderr").exists() else ""
    return Ended(code=status, stderr=stderr, seconds=time.monotonic() - begun)


def numbers(out: Path) -> dict[str, str]:
    """Digest what a command's result files hold, without times."""
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.iterdir())
        # What kill -9 leaves of an unfinished file has a name with a dot.
        if path.name not in UNLIKE and not path.name.startswith(".")
    }
    if (out / "scores.safetensors").exists():
        scores = HeadScores.load(out)
        for measure, cases in scores.per_case.items():
            found[measure] = hashlib.sha256(cases.tobytes()).hexdigest()
    return found


def unlike(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """Name the results that are not as undisturbed."""
    names = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
    return [f"not as undisturbed: {', '.join(names)}"] if names else []


def stop(
    name: str, folder: Path, wanted: dict[str, str], number: int, after: float, fresh: bool
) -> tuple[str, list[str]]:
    """Stop a command once and give it again; return what came of the stop, and any problem."""
    command, problems = COMMANDS[name], []
    first = run(command, folder, disturb=lambda p: os.kill(p, number), after=after, fresh=fresh)
    killed = number == signal.SIGKILL
    stopped = first.code == (-number if killed else 128 + number)
    # Before main, Python itself ends by SIGTERM and SIGHUP, and after it so do we.
    silent = first.code == -number and "Traceback" not in first.stderr
    if not (stopped or silent or first.code == 0):
        problems.append(f"exit code {first.code}: {first.stderr[-300:]}")
    if "Traceback" in first.stderr and not (fresh and number == signal.SIGINT and after < 0.5):
        problems.append(f"a traceback: {first.stderr[-600:]}")
    if not killed and (left := [path.name for path in (folder / "out").glob(".*")]):
        problems.append(f"left behind: {left}")
    again = run(command, folder)
    if again.code:
        problems.append(f"given again, exit code {again.code}: {again.stderr[-300:]}")
    else:
        problems += unlike(numbers(folder / "out"), wanted)
    return ("stopped" if stopped or silent else "was over"), problems


@contextmanager
def prepared(run_dir: Path, duo: Path) -> Iterator[Path]:
    """Yield a folder with the run and the duo directory that commands read."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "run").symlink_to(run_dir)
        (Path(folder) / "duo").symlink_to(duo)
        yield Path(folder)


def disks(folder: Path, wanted: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
    """Score onto a full disk, a read-only one, and into a directory that vanishes."""
    disk, command = folder / "disk", [*COMMANDS["score"][:-1], "disk/out"]

    def again(title: str) -> tuple[str, list[str]]:
        ended = run(command, folder)
        if ended.code:
            return title, [f"exit code {ended.code}: {ended.stderr[-300:]}"]
        return title, unlike(numbers(disk / "out"), wanted)

    def one_line(ended: Ended, *words: str) -> list[str]:
        lines = ended.stderr.splitlines()
        fine = ended.code in (1, 2) and any(word in lines[-1] for word in words)
        fine = fine and "Traceback" not in ended.stderr
        return [] if fine else [f"exit code {ended.code}: {ended.stderr[-600:]}"]

    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", disk], check=True)
    try:
        yield "full disk", one_line(run(command, folder), "No space left", "disk is full")
        subprocess.run(["mount", "-o", "remount,size=16m", disk], check=True)
        yield again("full disk, given space")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        yield "read-only disk", one_line(run(command, folder), "ead-only")
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        for part in (0.3, 0.6, 0.8):
            vanish = [*command, "--overwrite"]
            seconds = run(vanish, folder).seconds
            ended = run(
                vanish, folder, disturb=lambda p: shutil.rmtree(disk / "out"), after=part * seconds
            )
            yield f"directory gone at {part:.0%}", one_line(ended, "out") if ended.code else []
            yield again("given again")
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def main() -> int:
    """Run all trials, print a table and the problems; return how many problems there were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--signals", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    # In the background of a shell and after nohup, signals are ignored, and by what is started too.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    draw, tallies = random.Random(options.seed), {name: Tally() for name in COMMANDS}
    with tempfile.TemporaryDirectory() as base:
        setting = Path(base)
        for command in (
            ["score", *CASES, "--limit", "12", "--out", "run"],
            ["export", "run", "--to", "duo", "--out", "duo"],
        ):
            assert run(command, setting).code == 0
        sources = setting / "run", setting / "duo"
        undisturbed = {}
        for name, command in COMMANDS.items():
            with prepared(*sources) as folder:
                ended = run(command, folder)
                assert ended.code == 0, ended.stderr
                undisturbed[name] = numbers(folder / "out"), ended.seconds
                print(f"{name}: {ended.seconds:.1f} s undisturbed", flush=True)
        trials = [signal.SIGKILL] * options.kills
        # Every command gets each of the signals.
        trials += [SIGNALS[n // len(COMMANDS) % len(SIGNALS)] for n in range(options.signals)]
        for trial, number in enumerate(trials):
            name = list(COMMANDS)[trial % len(COMMANDS)]
            wanted, seconds = undisturbed[name]
            fresh = trial % 10 == 9
            after = draw.random() * (seconds + 3.0 * fresh)
            with prepared(*sources) as folder:
                came, problems = stop(name, folder, wanted, number, after, fresh)
            kind = "kills" if number == signal.SIGKILL else "signals"
            tallies[name].counts.update([kind, f"{kind} {came}"])
            if trial % 20 == 19:
                print(f"{trial + 1} of {len(trials)} stops", flush=True)
            tallies[name].problems += [f"{number.name} at {after:.2f} s: {p}" for p in problems]
        for name, tally in tallies.items():
            print(f"{name}: {dict(tally.counts)}, {len(tally.problems)} problems")
        problems = [f"{name}: {p}" for name, tally in tallies.items() for p in tally.problems]
        if os.name == "posix" and os.geteuid() == 0:
            with prepared(*sources) as folder:
                for title, found in disks(folder, undisturbed["score"][0]):
                    print(f"{title}: {'; '.join(found) or 'as promised'}", flush=True)
                    problems += found
    print("\n".join(problems))
    return min(len(problems), 1)


if __name__ == "__main__":
    sys.exit(main())

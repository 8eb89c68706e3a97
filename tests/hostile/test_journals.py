"""Damaged progress of a run: the same numbers, or one line and ``overwrite`` mends it."""

from __future__ import annotations

import os
import random
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping, Set
from pathlib import Path

import numpy as np
import pytest

from headprobe.errors import HeadprobeError, HeadprobeWarning
from headprobe.runs.engine import run_job
from headprobe.runs.identity import Plan
from headprobe.runs.job import Job, Work
from headprobe.runs.payload import Payload
from headprobe.runs.progress import FILE_NAME
from headprobe.runs.result_files import ResultFiles

KEYS = [f"case {number}" for number in range(12)]
SEAL = "scores.safetensors"


def job(out: Path) -> Job[np.ndarray, float]:
    """A run of twelve units, of which each is a matrix."""

    def do(wanted: Set[str]) -> Iterator[tuple[str, np.ndarray]]:
        for key in sorted(wanted):
            yield key, np.full((4, 4), KEYS.index(key), dtype=np.float32)

    def finish(done: Mapping[str, np.ndarray], files: ResultFiles) -> float:
        total = float(sum(matrix.sum() for matrix in done.values()))
        files.write_report(total=total)
        files.write(SEAL, lambda path: path.write_text(repr(total)) and None)
        return total

    work = Work(
        name="cases",
        keys=KEYS,
        do=do,
        encode=lambda matrix: Payload(fields={"score": 1.0}, arrays={"r2": matrix}),
        decode=lambda key, payload: payload.array("r2", (4, 4)),
    )
    plan = Plan(identity={"kind": "test", "seed": 0}, labels={"limit": 12})
    return Job(out=out, plan=plan, work=work, finish=finish, seal=SEAL)


TOTAL = 16.0 * sum(range(12))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    out = tmp_path_factory.mktemp("progress")
    assert run_job(job(out)) == TOTAL
    return (out / FILE_NAME).read_bytes()


def settles(out: Path) -> str:
    """Go on with a run; return "read", or the line of a refusal that overwrite mends."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=HeadprobeWarning)
        try:
            assert run_job(job(out)) == TOTAL
        except HeadprobeError as error:
            line = str(error)
        else:
            return "read"
        assert run_job(job(out), overwrite=True) == TOTAL
    assert "\n" not in line
    return line


def damaged(whole: bytes, *, count: int) -> Iterator[bytes]:
    """Yield a progress file with bits flipped, parts zeroed, doubled, exchanged or cut off."""
    draw = random.Random(0)
    for trial in range(count):
        content = bytearray(whole)
        one, other = sorted(draw.sample(range(len(content)), 2))
        kind = trial % 6
        if kind in (0, 1):
            for _ in range(1 + 20 * kind):
                content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        elif kind == 2:
            content[one : one + 64] = bytes(64)
        elif kind == 3:
            del content[one:]
        elif kind == 4:
            content[one:one] = content[one:other]
        else:
            content[one : one + 512] = content[other : other + 512]
        yield bytes(content)


@pytest.mark.slow
def test_a_file_with_damaged_bytes_gives_the_same_numbers_or_one_line(
    tmp_path: Path, whole: bytes
) -> None:
    found = []
    for number, content in enumerate(damaged(whole, count=48)):
        out = tmp_path / str(number)
        out.mkdir()
        (out / FILE_NAME).write_bytes(content)
        found.append(settles(out))
    assert 0 < found.count("read") < len(found)


STATEMENTS = [
    *(f"UPDATE unit SET {column} = {value} WHERE rowid % 2" for column in ("key", "payload",
      "checksum") for value in ("NULL || ''", "''", "7", "-1.5", "x'00'", "x'FF'", "zeroblob(9999)",
      "'case 1'", "hex(randomblob(50))")),
    *(f"UPDATE plan SET {column} = {value}" for column in ("identity", "labels", "checksum")
      for value in ("''", "'null'", "'[]'", "'7'", "'{}'", "x'FF'", "zeroblob(99)", "'{\"a\":'")),
    *("DELETE FROM unit", "DELETE FROM plan", "DELETE FROM unit WHERE rowid > 3"),
    *("INSERT INTO unit SELECT * FROM unit", "INSERT INTO plan SELECT * FROM plan"),
    "INSERT INTO unit SELECT 'case 99', payload, checksum FROM unit",
    *("DROP TABLE unit", "DROP TABLE plan", "CREATE TABLE more (a)"),
    *("ALTER TABLE unit ADD COLUMN more", "ALTER TABLE unit RENAME COLUMN key TO name"),
    "CREATE TRIGGER t BEFORE INSERT ON unit BEGIN SELECT RAISE(ABORT, 'no'); END",
    "CREATE TRIGGER t AFTER INSERT ON unit BEGIN DELETE FROM unit; END",
    "CREATE VIEW more AS SELECT * FROM unit",
    "CREATE INDEX more ON unit (key)",
    *("PRAGMA user_version = 7", "PRAGMA application_id = 7", "PRAGMA journal_mode = WAL"),
]  # fmt: skip


@pytest.mark.parametrize("statement", STATEMENTS)
def test_tampered_rows_and_tables_give_the_same_numbers_or_one_line(
    tmp_path: Path, whole: bytes, statement: str
) -> None:
    (tmp_path / FILE_NAME).write_bytes(whole)
    connection = sqlite3.connect(tmp_path / FILE_NAME)
    # What the schema itself forbids cannot be there.
    try:
        with connection:
            connection.execute(statement)
    except sqlite3.IntegrityError:
        pass
    connection.close()
    settles(tmp_path)


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_pipe_for_rollback(path: Path) -> None:
    os.mkfifo(path.with_name(f"{FILE_NAME}-journal"))


def a_link_to_nowhere(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere.sqlite"))


def a_link_to_a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_text(path: Path) -> None:
    path.write_text('{"case_id": 1}\n')


def nothing(path: Path) -> None:
    path.touch()


FORMS = [a_pipe, a_pipe_for_rollback, a_link_to_nowhere, a_link_to_a_device, a_text, nothing]


@pytest.mark.parametrize("form", FORMS)
def test_what_is_no_progress_file_is_one_line_and_can_be_replaced(
    tmp_path: Path, form: Callable[[Path], None]
) -> None:
    form(tmp_path / FILE_NAME)
    settles(tmp_path)


def test_a_directory_in_its_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).mkdir()
    for overwrite in (False, True):
        with pytest.raises(HeadprobeError) as error:
            run_job(job(tmp_path), overwrite=overwrite)
        assert "\n" not in str(error.value)

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headprobe.errors import HeadprobeError, HeadprobeWarning, UsageError
from headprobe.runs.identity import Plan
from headprobe.runs.payload import Payload
from headprobe.runs.progress import FILE_NAME, Progress, discard_progress, open_progress

IDENTITY: dict[str, Any] = {"task": "r2", "lengths": [100, 200], "seed": 0}
PLAN = Plan(identity=IDENTITY)


def payload(number: int) -> Payload:
    draw = np.random.default_rng(number)
    return Payload(
        fields={
            "ids": [number, 7, 2],
            "response": 'tin drums, "naïve" 日本\n',
            "fraction": 0.1 + 0.2,
        },
        arrays={
            "r2": draw.random((2, 4), dtype=np.float32),
            "fraction": draw.random(3),
            "one": np.array(0.5),
        },
    )


def assert_equal(one: Payload, other: Payload) -> None:
    assert one.fields == other.fields
    assert one.arrays.keys() == other.arrays.keys()
    for name, array in one.arrays.items():
        assert array.dtype == other.arrays[name].dtype
        np.testing.assert_array_equal(array, other.arrays[name])


def read(path: Path) -> dict[str, Payload]:
    with open_progress(path) as progress:
        return dict(progress.units())


def test_what_is_added_comes_back_under_its_key(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    with open_progress(path) as progress:
        progress.begin(PLAN)
        for number in (5, 0, 3):
            progress.add({f"key {number}": payload(number)})
        assert progress.keys == {"key 0", "key 3", "key 5"}
    back = read(path)
    assert list(back) == ["key 5", "key 0", "key 3"]
    for number in (5, 0, 3):
        assert_equal(back[f"key {number}"], payload(number))


def test_arrays_in_any_layout_come_back_as_they_were(tmp_path: Path) -> None:
    scores = np.arange(8, dtype=np.float64).reshape(4, 2).T
    with open_progress(tmp_path / FILE_NAME) as progress:
        progress.add({"a": Payload(arrays={"r2": scores})})
        (back,) = (unit for _, unit in progress.units())
    np.testing.assert_array_equal(back.arrays["r2"], scores)


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    with pytest.raises(KeyboardInterrupt), open_progress(path) as progress:  # noqa: PT012
        progress.begin(PLAN)
        progress.add({"a": payload(0)})
        raise KeyboardInterrupt
    with open_progress(path) as progress:
        progress.begin(Plan(identity=dict(reversed(IDENTITY.items()))))
        assert progress.keys == {"a"}
        progress.add({"b": payload(1)})
        assert progress.keys == {"a", "b"}


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"seed": 1}, "(seed was 0, now 1)"),
        ({"lengths": [100]}, "(lengths was [100, 200], now [100])"),
        ({"seed": 1, "task": "retrieval"}, '(task was "r2", now "retrieval"; seed was 0, now 1)'),
        ({"chunk": 5}, "(chunk was null, now 5)"),
        ({"depths": list(range(1000))}, "depths was null, now [0, 1, 2"),
    ],
)
def test_another_identity_is_refused_with_the_difference_named(
    tmp_path: Path, changes: dict[str, Any], difference: str
) -> None:
    path = tmp_path / FILE_NAME
    with open_progress(path) as progress:
        progress.begin(PLAN)
        progress.add({"a": payload(0)})
    with open_progress(path) as progress, pytest.raises(UsageError, match="other opt") as error:
        progress.begin(Plan(identity=IDENTITY | changes))
    message = str(error.value)
    assert difference in message
    assert str(tmp_path) in message
    assert len(message) < 300
    with open_progress(path) as progress:
        progress.begin(PLAN)
        assert progress.keys == {"a"}


def test_long_values_are_shown_where_they_begin_to_differ() -> None:
    one, other = (Plan(identity={"heads": [*range(100), last, *range(100)]}) for last in (7, 8))
    (difference,) = one.differences(other)
    assert ", 7, 0, 1," in difference
    assert ", 8, 0, 1," in difference
    assert len(difference) < 170


def test_names_may_differ_and_tell_what_a_digest_is_of(tmp_path: Path) -> None:
    def named(digest: str, name: str, limit: int) -> Plan:
        return Plan(identity={"needles_digest": digest}, labels={"needles": name, "limit": limit})

    with open_progress(tmp_path / FILE_NAME) as progress:
        progress.begin(named("1a", "needles.jsonl", 4))
        progress.begin(named("1a", "../here/needles.jsonl", 8))
        assert progress.plan is not None
        assert progress.plan.labels == {"needles": "../here/needles.jsonl", "limit": 8}
        with pytest.raises(UsageError, match=r'needles was "\.\./here/.*", now "own.jsonl"\)'):
            progress.begin(named("2b", "own.jsonl", 8))
        with pytest.raises(UsageError, match=r'needles_digest was "1a", now "2b"\)'):
            progress.begin(named("2b", "../here/needles.jsonl", 9))


def test_a_digest_that_follows_another_option_is_not_told_beside_it() -> None:
    one, other, third = (
        Plan(identity={"seed": seed, "haystack_digest": digest}, labels={"haystack": "noise"})
        for seed, digest in ((0, "a"), (1, "b"), (0, "c"))
    )
    assert one.differences(other) == ["seed was 0, now 1"]
    assert one.differences(third) == ['haystack_digest was "a", now "c"']


def test_of_another_kind_of_run_nothing_else_is_told() -> None:
    one, other = Plan(identity={"kind": "score", "seed": 0}), Plan(identity={"kind": "import"})
    assert one.differences(other) == ['kind was "score", now "import"']


def test_a_plan_is_equal_to_itself_after_json(tmp_path: Path) -> None:
    plan = Plan(identity={"lengths": (100, 200), "depths": [0.1 + 0.2, 1 / 3], "needles": None})
    for _ in range(2):
        with open_progress(tmp_path / FILE_NAME) as progress:
            progress.begin(plan)


def test_clearing_leaves_neither_units_nor_plan(tmp_path: Path) -> None:
    with open_progress(tmp_path / FILE_NAME) as progress:
        progress.begin(PLAN)
        progress.add({"a": payload(0)})
        progress.clear()
        assert not progress.keys
        assert progress.plan is None
    assert read(tmp_path / FILE_NAME) == {}


WRITER = """
import sys
from pathlib import Path
import numpy as np
from headprobe.runs.payload import Payload
from headprobe.runs.progress import open_progress

with open_progress(Path(sys.argv[1])) as progress:
    for number in range(100_000):
        scores = {"r2": np.full((32, 32), number, dtype=np.float32)}
        progress.add({str(number): Payload(fields={"number": number}, arrays=scores)})
        print(number, flush=True)
        if number == int(sys.argv[2]):
            sys.stdin.read()
"""


def start_writer(path: Path, *, rest_after: int) -> subprocess.Popen[str]:
    """A process that writes units, prints each one's number, and waits after the last."""
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), str(rest_after)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_killing_a_run_loses_nothing_that_was_written(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    with start_writer(path, rest_after=10**9) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) == 20:
                break
        os.kill(writer.pid, signal.SIGKILL)
        last = max([20, *(int(line) for line in writer.stdout)])
    back = read(path)
    # The unit under way may have been written without a word of it.
    assert [*map(int, back)] in (list(range(last + 1)), list(range(last + 2)))
    for key, unit in back.items():
        assert unit.fields == {"number": int(key)}
        np.testing.assert_array_equal(unit.arrays["r2"], np.full((32, 32), int(key)))


def test_a_second_process_is_turned_away_and_the_first_goes_on(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    busy = f"another headprobe is working on {tmp_path}"
    with start_writer(path, rest_after=0) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "0\n"
        try:
            for replace in (False, True):
                with (
                    pytest.raises(HeadprobeError, match=busy),
                    open_progress(path, replace=replace),
                ):
                    pytest.fail("the block must not run")
            with pytest.raises(HeadprobeError, match=busy):
                discard_progress(path)
            assert path.exists()
            assert writer.poll() is None
        finally:
            writer.kill()


@pytest.fixture
def full(tmp_path: Path) -> Path:
    path = tmp_path / FILE_NAME
    with open_progress(path) as progress:
        progress.begin(PLAN)
        for number in range(30):
            ones = {"r2": np.full((32, 32), number, dtype=np.float32)}
            progress.add({str(number): Payload(arrays=ones)})
    return path


def tamper(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE unit SET payload = zeroblob(length(payload)) WHERE key IN ('3', '7')",
        "UPDATE unit SET payload = substr(payload, 1, 100) WHERE key IN ('3', '7')",
        "UPDATE unit SET payload = 'text' WHERE key IN ('3', '7')",
        "UPDATE unit SET payload = 12 WHERE key IN ('3', '7')",
        "UPDATE unit SET checksum = upper(checksum) WHERE key IN ('3', '7')",
        "UPDATE unit SET key = 'other' || key WHERE key IN ('3', '7')",
        "UPDATE unit SET key = x'FFFE' WHERE key IN ('3', '7')",
        "UPDATE unit SET payload = (SELECT payload FROM unit WHERE key = '1')"
        " WHERE key IN ('3', '7')",
    ],
)
def test_units_that_are_not_as_they_were_written_are_dropped(full: Path, statement: str) -> None:
    tamper(full, statement)
    with pytest.warns(HeadprobeWarning, match=r"2 units of work in .* are done anew") as told:
        back = read(full)
    assert len(told) == 1
    assert set(back) == set(map(str, range(30))) - {"3", "7"}
    # The second time there is nothing to tell of.
    assert read(full).keys() == back.keys()


def test_a_flipped_bit_in_a_number_is_found(full: Path) -> None:
    content = bytearray(full.read_bytes())
    at = content.index(np.full(64, 17, dtype="<f4").tobytes())
    content[at] ^= 1
    full.write_bytes(content)
    with pytest.warns(HeadprobeWarning, match="a unit of work .* it is done anew"):
        assert set(read(full)) == set(map(str, range(30))) - {"17"}


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\xff" * 100, b"{}", np.ones(9).tobytes()])
def test_a_payload_that_is_none_does_not_decode_whatever_its_checksum(
    full: Path, content: bytes
) -> None:
    parts = (len(part).to_bytes(8, "little") + part for part in (b"bad", content))
    checksum = hashlib.sha256(b"".join(parts)).hexdigest()
    tamper(full, f"INSERT INTO unit VALUES ('bad', x'{content.hex()}', '{checksum}')")
    with pytest.warns(HeadprobeWarning, match="done anew"):
        assert "bad" not in read(full)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE plan SET identity = '[1]'",
        "UPDATE plan SET identity = 'no JSON'",
        "UPDATE plan SET labels = x'FF'",
        "INSERT INTO plan SELECT * FROM plan",
    ],
)
def test_a_plan_that_is_not_as_it_was_written_is_one_line(full: Path, statement: str) -> None:
    tamper(full, statement)
    with pytest.raises(HeadprobeError, match=r"damaged \(its plan cannot"), open_progress(full):
        pytest.fail("the block must not run")


@pytest.mark.parametrize("fraction", [0.0001, 0.03, 0.3, 0.5, 0.9, 0.999, 0.99999])
def test_a_truncated_file_is_one_line(full: Path, fraction: float) -> None:
    full.write_bytes(full.read_bytes()[: int(fraction * full.stat().st_size)])
    with pytest.raises(HeadprobeError, match=rf"{FILE_NAME} is damaged \("), open_progress(full):
        pytest.fail("the block must not run")


def other_table(path: Path) -> None:
    tamper(path, "CREATE TABLE plan (other TEXT)")


def first_version(path: Path) -> None:
    tamper(path, "CREATE TABLE plan (json TEXT NOT NULL)", "INSERT INTO plan VALUES ('{}')")


def one_column_more(path: Path) -> None:
    with open_progress(path):
        pass
    tamper(path, "ALTER TABLE unit ADD COLUMN more TEXT")


def trigger(path: Path) -> None:
    with open_progress(path):
        pass
    tamper(path, "CREATE TRIGGER t AFTER INSERT ON unit BEGIN DELETE FROM unit; END")


def view(path: Path) -> None:
    with open_progress(path):
        pass
    tamper(path, "DROP TABLE unit", "CREATE VIEW unit AS SELECT 1 AS key, 2 AS payload")


def version_to_come(path: Path) -> None:
    with open_progress(path):
        pass
    tamper(path, "PRAGMA user_version = 99")


def pipe(path: Path) -> None:
    os.mkfifo(path)


def pipe_beside(path: Path) -> None:
    os.mkfifo(path.with_name(f"{FILE_NAME}-journal"))


def noise(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(10_000))


FOREIGN = [
    other_table,
    first_version,
    one_column_more,
    trigger,
    view,
    version_to_come,
    pipe,
    pipe_beside,
    noise,
]


@pytest.mark.parametrize("make", FOREIGN)
def test_a_file_that_is_no_progress_of_ours_is_one_line_and_can_be_replaced(
    tmp_path: Path, make: Any
) -> None:
    path = tmp_path / FILE_NAME
    make(path)
    with pytest.raises(HeadprobeError, match="`overwrite`") as error, open_progress(path):
        pytest.fail("the block must not run")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    with open_progress(path, replace=True) as progress:
        progress.begin(PLAN)
        progress.add({"a": payload(0)})
    assert set(read(path)) == {"a"}
    assert [file.name for file in tmp_path.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize("replace", [False, True])
def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path, replace: bool) -> None:
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "nowhere" / FILE_NAME, tmp_path / "folder"):
        with pytest.raises(HeadprobeError), open_progress(path, replace=replace):
            pytest.fail("the block must not run")
    assert (tmp_path / "folder").is_dir()


@pytest.mark.parametrize("state", ["whole", "damaged", "missing"])
def test_discarded_progress_is_gone(full: Path, state: str) -> None:
    if state == "damaged":
        full.write_bytes(b"garbage" * 1000)
        full.with_name(f"{FILE_NAME}-journal").write_bytes(b"garbage")
    elif state == "missing":
        full.unlink()
    discard_progress(full)
    assert list(full.parent.iterdir()) == []


def test_progress_can_be_read_with_plain_sqlite(full: Path) -> None:
    connection = sqlite3.connect(full)
    (identity,) = connection.execute("SELECT identity FROM plan").fetchone()
    assert json.loads(identity) == IDENTITY
    assert connection.execute("SELECT count(*) FROM unit").fetchone() == (30,)
    connection.close()


def test_dropped_units_are_told_of_and_gone(full: Path) -> None:
    def keys(progress: Progress) -> set[str]:
        return {key for key, _ in progress.units()}

    with open_progress(full) as progress:
        with pytest.warns(HeadprobeWarning, match="2 units of work"):
            progress.drop(["3", "4"])
        assert keys(progress) == progress.keys == set(map(str, range(30))) - {"3", "4"}

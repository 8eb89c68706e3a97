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

from headprobe.errors import HeadprobeError, UsageError
from headprobe.runs.progress import FILE_NAME, Observation, discard_journal, open_journal

PLAN: dict[str, Any] = {"task": "r2", "lengths": [100, 200], "seed": 0}


def observation(case_id: int, **changes: Any) -> Observation:
    draw = np.random.default_rng(case_id)
    fields: dict[str, Any] = {
        "case_id": case_id,
        "generated_ids": (case_id, 7, 2),
        "response": 'tin drums, "naïve" 日本\n',
        "success": 66.6,
        "scores": {
            "r2": draw.random((2, 4), dtype=np.float32),
            "retrieval": draw.random((2, 4), dtype=np.float32),
        },
    }
    return Observation(**fields | changes)


def assert_equal(one: Observation, other: Observation) -> None:
    for name in ("case_id", "generated_ids", "response", "success"):
        assert getattr(one, name) == getattr(other, name)
    assert list(one.scores) == list(other.scores)
    for measure, scores in one.scores.items():
        np.testing.assert_array_equal(scores, other.scores[measure])


def test_what_is_added_comes_back_in_the_order_of_cases(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    with open_journal(path, PLAN) as journal:
        for case_id in (5, 0, 3):
            journal.add(observation(case_id))
        assert journal.observed() == {0, 3, 5}
    with open_journal(path, PLAN) as journal:
        assert journal.observed() == {0, 3, 5}
        back = list(journal.observations())
    assert [seen.case_id for seen in back] == [0, 3, 5]
    for seen in back:
        assert_equal(seen, observation(seen.case_id))


def test_scores_in_any_layout_or_precision_come_back_as_float32(tmp_path: Path) -> None:
    scores = np.arange(8, dtype=np.float64).reshape(4, 2).T
    with open_journal(tmp_path / FILE_NAME, PLAN) as journal:
        journal.add(observation(0, scores={"r2": scores}))
        (back,) = journal.observations()
    assert back.scores["r2"].dtype == np.float32
    np.testing.assert_array_equal(back.scores["r2"], scores)


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    with pytest.raises(KeyboardInterrupt), open_journal(path, PLAN) as journal:  # noqa: PT012
        journal.add(observation(0))
        raise KeyboardInterrupt
    with open_journal(path, dict(reversed(PLAN.items()))) as journal:
        assert journal.observed() == {0}
        journal.add(observation(1))
        assert journal.observed() == {0, 1}


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"seed": 1}, "(seed was 0, now 1)"),
        ({"lengths": [100]}, "(lengths was [100, 200], now [100])"),
        ({"seed": 1, "task": "retrieval"}, '(task was "r2", now "retrieval"; seed was 0, now 1)'),
        ({"limit": 5}, "(limit was null, now 5)"),
        ({"depths": list(range(1000))}, "depths was null, now [0, 1, 2"),
    ],
)
def test_another_plan_is_refused_with_the_difference_named(
    tmp_path: Path, changes: dict[str, Any], difference: str
) -> None:
    path = tmp_path / FILE_NAME
    with open_journal(path, PLAN) as journal:
        journal.add(observation(0))
    with (
        pytest.raises(UsageError, match="run with other options") as error,
        open_journal(path, PLAN | changes),
    ):
        pytest.fail("the block must not run")
    message = str(error.value)
    assert difference in message
    assert "--fresh" in message
    assert str(tmp_path) in message
    assert len(message) < 300
    with open_journal(path, PLAN) as journal:
        assert journal.observed() == {0}


def test_a_plan_is_equal_to_itself_after_json(tmp_path: Path) -> None:
    plan = {"lengths": (100, 200), "depths": [0.1 + 0.2, 1 / 3], "needles": None}
    for _ in range(2):
        with open_journal(tmp_path / FILE_NAME, plan) as journal:
            assert journal.observed() == set()


WRITER = """
import sys
from pathlib import Path
import numpy as np
from headprobe.runs.progress import Observation, open_journal

with open_journal(Path(sys.argv[1]), {"task": "r2"}) as journal:
    for case_id in range(100_000):
        scores = {"r2": np.full((32, 32), case_id, dtype=np.float32)}
        journal.add(Observation(
            case_id=case_id, generated_ids=(case_id,), response="x", success=100.0, scores=scores
        ))
        print(case_id, flush=True)
        if case_id == int(sys.argv[2]):
            sys.stdin.read()
"""


def start_writer(path: Path, *, rest_after: int) -> subprocess.Popen[str]:
    """A process that writes cases, prints each one's number, and waits after the last."""
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
    with open_journal(path, {"task": "r2"}) as journal:
        seen = list(journal.observations())
    # The case under way may have been written without a word of it.
    assert [one.case_id for one in seen] in (list(range(last + 1)), list(range(last + 2)))
    for one in seen:
        assert one.generated_ids == (one.case_id,)
        np.testing.assert_array_equal(one.scores["r2"], np.full((32, 32), one.case_id))


def test_a_second_process_is_turned_away_and_the_first_goes_on(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    busy = f"another headprobe is working on {tmp_path}"
    with start_writer(path, rest_after=0) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "0\n"
        try:
            with pytest.raises(HeadprobeError, match=busy), open_journal(path, {"task": "r2"}):
                pytest.fail("the block must not run")
            with pytest.raises(HeadprobeError, match=busy):
                discard_journal(path)
            assert path.exists()
            assert writer.poll() is None
        finally:
            writer.kill()


@pytest.fixture
def full(tmp_path: Path) -> Path:
    path = tmp_path / FILE_NAME
    with open_journal(path, PLAN) as journal:
        for case_id in range(30):
            journal.add(observation(case_id, scores={"r2": np.ones((32, 32))}))
    return path


@pytest.mark.parametrize("share", [0.0001, 0.03, 0.3, 0.5, 0.9, 0.999, 0.99999])
def test_a_truncated_journal_is_a_clear_error(full: Path, share: float) -> None:
    full.write_bytes(full.read_bytes()[: int(share * full.stat().st_size)])
    problem = rf"{FILE_NAME} is damaged \(.*\); start over with --fresh"
    with pytest.raises(HeadprobeError, match=problem), open_journal(full, PLAN) as journal:
        list(journal.observations())


def test_a_file_of_something_else_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(np.random.default_rng(0).bytes(10_000))
    with pytest.raises(HeadprobeError, match="is damaged"), open_journal(path, PLAN):
        pytest.fail("the block must not run")


def test_a_data_base_of_something_else_is_a_clear_error(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE plan (other TEXT)")
    connection.close()
    with pytest.raises(HeadprobeError, match=FILE_NAME), open_journal(path, PLAN):
        pytest.fail("the block must not run")


def test_a_place_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere" / FILE_NAME, tmp_path):
        with pytest.raises(HeadprobeError, match="cannot write"), open_journal(path, PLAN):
            pytest.fail("the block must not run")


@pytest.mark.parametrize("state", ["whole", "damaged", "missing"])
def test_a_discarded_journal_makes_room_for_any_plan(full: Path, state: str) -> None:
    if state == "damaged":
        full.write_bytes(b"garbage" * 1000)
        full.with_name(f"{FILE_NAME}-journal").write_bytes(b"garbage")
    elif state == "missing":
        full.unlink()
    discard_journal(full)
    assert list(full.parent.iterdir()) == []
    with open_journal(full, PLAN | {"seed": 1}) as journal:
        assert journal.observed() == set()


def test_the_journal_can_be_read_with_plain_sqlite(full: Path) -> None:
    connection = sqlite3.connect(full)
    (plan,) = connection.execute("SELECT json FROM plan").fetchone()
    assert json.loads(plan) == PLAN
    assert connection.execute("SELECT count(*) FROM observation").fetchone() == (30,)
    connection.close()

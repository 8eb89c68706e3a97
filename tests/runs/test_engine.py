"""The run engine with units of work that cost nothing: what every command inherits from it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headprobe.errors import HeadprobeError, HeadprobeWarning, Interrupted, UsageError
from headprobe.files import file_digest
from headprobe.runs.directory import RESULTS
from headprobe.runs.distributed import Processes
from headprobe.runs.engine import run_job
from headprobe.runs.identity import Plan
from headprobe.runs.job import Job, Work
from headprobe.runs.payload import Payload
from headprobe.runs.progress import FILE_NAME, Progress, open_progress
from headprobe.runs.result_files import ResultFiles

SEAL = "scores.safetensors"


class Squares:
    """A client: a unit is the square of a number; the result is their sum."""

    def __init__(self, out: Path, numbers: Sequence[int], **identity: Any) -> None:
        self.asked: list[int] = []
        self.stop_at: int | None = None
        self.break_at: str | None = None
        work = Work(
            name="numbers",
            keys=[str(number) for number in numbers],
            do=self._do,
            encode=lambda square: Payload(arrays={"square": np.array(square)}),
            decode=lambda key, payload: int(payload.array("square", ())),
        )
        self.job: Job[int, int] = Job(
            out=out,
            plan=Plan(identity={"kind": "squares", **identity}, labels={"count": len(numbers)}),
            work=work,
            finish=self._finish,
            seal=SEAL,
            facts={"colour": "blue"},
        )

    def run(self, **options: Any) -> int | None:
        return run_job(self.job, **options)

    def with_work(self, **changes: Any) -> Squares:
        assert self.job.work is not None
        self.job = replace(self.job, work=replace(self.job.work, **changes))
        return self

    def _do(self, wanted: Set[str]) -> Iterator[tuple[str, int]]:
        for key in sorted(wanted, key=int):
            if len(self.asked) == self.stop_at:
                raise KeyboardInterrupt
            self.asked.append(int(key))
            yield key, int(key) ** 2

    def _finish(self, done: Mapping[str, int], files: ResultFiles) -> int:
        total = sum(done.values())
        for name in ("cases.parquet", "heads.csv"):
            if name == self.break_at:
                raise KeyboardInterrupt
            files.write(name, lambda path: path.write_text(str(total)) and None)
        files.write_report(total=total)
        digests = json.dumps(dict(files.digests))
        files.write(SEAL, lambda path: path.write_text(digests) and None)
        return total


def report(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "run.json").read_text())
    return found


def test_units_are_done_once_and_the_report_says_what_was_done(tmp_path: Path) -> None:
    squares = Squares(tmp_path, [1, 2, 3], seed=0)
    assert squares.run() == 14
    assert squares.asked == [1, 2, 3]
    found = report(tmp_path)
    assert (found["status"], found["numbers"], found["observed"]) == ("complete", 3, 3)
    assert (found["total"], found["colour"], found["processes"]) == (14, "blue", 1)
    assert found["plan"] == {"kind": "squares", "seed": 0, "count": 3}
    assert {"started", "seconds", "versions"} <= found.keys()
    again = Squares(tmp_path, [1, 2, 3], seed=0)
    assert again.run() == 14
    assert again.asked == []
    assert report(tmp_path)["resumed_from"] == 3


def test_more_units_go_on_from_fewer_and_fewer_leave_the_others_alone(tmp_path: Path) -> None:
    Squares(tmp_path, [1, 2]).run()
    more = Squares(tmp_path, [2, 3, 1, 4])
    assert more.run() == 30
    assert more.asked == [3, 4]
    assert Squares(tmp_path, [4]).run() == 16
    last = Squares(tmp_path, [1, 2, 3, 4])
    assert last.run() == 30
    assert last.asked == []


def test_units_that_are_alike_are_done_once_and_counted_each_time(tmp_path: Path) -> None:
    squares = Squares(tmp_path, [3, 2, 3])
    advanced: list[int] = []
    squares.run(advance=lambda: advanced.append(1))
    assert squares.asked == [2, 3]
    assert len(advanced) == report(tmp_path)["observed"] == 3


def test_ctrl_c_keeps_what_was_done_and_the_same_call_goes_on(tmp_path: Path) -> None:
    squares = Squares(tmp_path, [1, 2, 3])
    squares.stop_at = 2
    with pytest.raises(Interrupted, match="stopped after 2 of 3 numbers; the same command goes"):
        squares.run()
    found = report(tmp_path)
    assert (found["status"], found["observed"], found["numbers"]) == ("stopped", 2, 3)
    assert not (tmp_path / SEAL).exists()
    again = Squares(tmp_path, [1, 2, 3])
    advanced: list[int] = []
    assert again.run(advance=lambda: advanced.append(1)) == 14
    assert again.asked == [3]
    assert len(advanced) == 3


def test_what_was_kept_when_ctrl_c_came_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = Progress.add

    def add_and_stop(progress: Progress, units: Mapping[str, Payload]) -> None:
        add(progress, units)
        raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "add", add_and_stop)
    with pytest.raises(Interrupted, match="stopped after 1 of 3 numbers"):
        Squares(tmp_path, [1, 2, 3]).run()
    assert report(tmp_path)["observed"] == 1


@pytest.mark.parametrize("name", ["cases.parquet", "heads.csv"])
def test_a_stop_between_the_files_leaves_no_result_to_be_taken_for_one(
    tmp_path: Path, name: str
) -> None:
    Squares(tmp_path, [1, 2]).run()
    squares = Squares(tmp_path, [1, 2, 3])
    squares.break_at = name
    with pytest.raises(Interrupted, match="stopped after 3 of 3"):
        squares.run()
    assert not (tmp_path / SEAL).exists()
    assert Squares(tmp_path, [1, 2, 3]).run() == 14
    digests = json.loads((tmp_path / SEAL).read_text())
    assert digests == {
        n: file_digest(tmp_path / n) for n in ("cases.parquet", "heads.csv", "run.json")
    }


def test_other_options_are_refused_and_overwrite_starts_over(tmp_path: Path) -> None:
    Squares(tmp_path, [1, 2], seed=0).run()
    other = Squares(tmp_path, [1, 2], seed=1)
    with pytest.raises(UsageError, match=r"seed was 0, now 1"):
        other.run()
    assert report(tmp_path)["plan"]["seed"] == 0
    assert other.run(overwrite=True) == 5
    assert other.asked == [1, 2]
    assert report(tmp_path)["plan"]["seed"] == 1


def test_overwriting_removes_results_before_progress_and_other_files_never(tmp_path: Path) -> None:
    for name in (*RESULTS, "progress.1.sqlite", "journal.2.sqlite", "budget-1.json", "notes.txt"):
        (tmp_path / name).write_text("old")
    squares = Squares(tmp_path, [1])
    squares.run(overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["budget-1.json", "cases.parquet", "heads.csv", "notes.txt", FILE_NAME, "run.json", SEAL]
    )


def test_nothing_is_removed_while_another_is_at_work(tmp_path: Path) -> None:
    Squares(tmp_path, [1, 2]).run()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with open_progress(tmp_path / FILE_NAME):
        for overwrite in (False, True):
            with pytest.raises(HeadprobeError, match="another headprobe is working on"):
                Squares(tmp_path, [1]).run(overwrite=overwrite)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_results_are_written_while_the_directory_is_locked(tmp_path: Path) -> None:
    squares = Squares(tmp_path, [1])
    finish = squares.job.finish

    def second(done: Mapping[str, int], files: ResultFiles) -> int:
        with pytest.raises(HeadprobeError, match="another headprobe is working on"):
            Squares(tmp_path, [2]).run(overwrite=True)
        return finish(done, files)

    squares.job = replace(squares.job, finish=second)
    assert squares.run() == 1


def test_a_directory_in_a_files_place_is_named_and_nothing_removed(tmp_path: Path) -> None:
    Squares(tmp_path, [1]).run()
    (tmp_path / "heads.csv").unlink()
    (tmp_path / "heads.csv").mkdir()
    with pytest.raises(UsageError, match=r"heads\.csv is a directory"):
        Squares(tmp_path, [1]).run(overwrite=True)
    assert (tmp_path / SEAL).is_file()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is no directory"):
        Squares(tmp_path / "file", [1]).run()


@pytest.mark.parametrize("name", [SEAL, "journal.sqlite", "evaluation.json"])
def test_results_of_which_no_progress_tells_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("old")
    with pytest.raises(UsageError, match=f"holds {name} of a run that cannot be gone on with"):
        Squares(tmp_path, [1]).run()
    assert (tmp_path / name).read_text() == "old"
    # To be refused once is no reason to be taken the second time.
    with pytest.raises(UsageError, match="cannot be gone on with"):
        Squares(tmp_path, [1]).run()
    assert Squares(tmp_path, [1]).run(overwrite=True) == 1


def test_a_unit_that_does_not_decode_is_done_anew(tmp_path: Path) -> None:
    Squares(tmp_path, [1, 2]).run()
    with open_progress(tmp_path / FILE_NAME) as progress:
        progress.clear()
        progress.begin(Squares(tmp_path, []).job.plan)
        progress.add({"1": Payload(arrays={"square": np.array(1)}), "2": Payload()})
    squares = Squares(tmp_path, [1, 2])
    with pytest.warns(HeadprobeWarning, match="a unit of work .* done anew"):
        assert squares.run() == 5
    assert squares.asked == [2]


@pytest.mark.parametrize("bug", [AttributeError, KeyError, TypeError, ValueError])
def test_a_bug_of_decoding_is_not_taken_for_a_damaged_unit(
    tmp_path: Path, bug: type[Exception]
) -> None:
    def broken(*_: Any) -> int:
        raise bug("ours")

    Squares(tmp_path, [1, 2]).run()
    with pytest.raises(bug, match="ours"):
        Squares(tmp_path, [1, 2]).with_work(decode=broken).run()
    assert Squares(tmp_path, [1, 2]).run() == 5


def test_rounds_end_when_it_is_enough(tmp_path: Path) -> None:
    seen: list[set[str]] = []

    def is_enough(done: Mapping[str, int]) -> bool:
        seen.append(set(done))
        return len(done) >= 4

    squares = Squares(tmp_path, range(6)).with_work(
        rounds=[["0", "1"], ["2", "3"], ["4", "5"]], is_enough=is_enough
    )
    assert squares.run() == 14
    assert seen == [{"0", "1"}, {"0", "1", "2", "3"}]
    assert squares.asked == [0, 1, 2, 3]
    assert (report(tmp_path)["status"], report(tmp_path)["observed"]) == ("stable", 4)


def test_what_is_left_of_several_processes_is_taken_in(tmp_path: Path) -> None:
    squares = Squares(tmp_path, [1, 2, 3, 4])
    for rank, key in ((1, "2"), (2, "4")):
        with open_progress(tmp_path / f"progress.{rank}.sqlite") as shard:
            shard.begin(squares.job.plan)
            shard.add({key: Payload(arrays={"square": np.array(int(key) ** 2)})})
    assert squares.run() == 30
    assert squares.asked == [1, 3]
    assert not list(tmp_path.glob("progress.*.sqlite"))


def test_shards_have_every_unit_once(tmp_path: Path) -> None:
    work = Squares(tmp_path, [3, 1, 2, 3, 5, 8]).job.work
    assert work is not None
    parts = [work.shard(Processes(rank=rank, count=3)) for rank in range(3)]
    assert set().union(*parts) == {"1", "2", "3", "5", "8"}
    assert sum(map(len, parts)) == 5
    own = replace(work, shards=lambda count: [["1"], ["2", "3"]])
    assert own.shard(Processes(rank=1, count=2)) == {"2", "3"}


def test_an_error_in_the_work_is_reported_as_a_stop(tmp_path: Path) -> None:
    def fail(wanted: Set[str]) -> Iterator[tuple[str, int]]:
        yield "1", 1
        raise HeadprobeError("the model is gone")

    with pytest.raises(HeadprobeError, match="the model is gone"):
        Squares(tmp_path, [1, 2]).with_work(do=fail).run()
    assert (report(tmp_path)["status"], report(tmp_path)["observed"]) == ("stopped", 1)


def test_a_run_without_units_writes_its_files(tmp_path: Path) -> None:
    squares = Squares(tmp_path, [])
    squares.job = replace(squares.job, work=None, facts={"cases": 0})
    assert squares.run() == 0
    assert (report(tmp_path)["status"], report(tmp_path)["cases"]) == ("complete", 0)
    assert squares.run() == 0


def test_a_directory_that_vanishes_in_the_middle_is_one_line_and_can_be_run_again(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    squares = Squares(out, [1, 2, 3])

    def vanish(wanted: Set[str]) -> Iterator[tuple[str, int]]:
        yield "1", 1
        shutil.rmtree(out)
        yield "2", 4

    with pytest.raises(HeadprobeError, match="was removed while the run was at work"):
        squares.with_work(do=vanish).run()
    assert not out.exists()
    assert Squares(out, [1, 2, 3]).run() == 14


def test_a_directory_that_vanishes_before_the_results_is_one_line(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def vanish(done: Mapping[str, int]) -> bool:
        shutil.rmtree(out)
        return False

    with pytest.raises(HeadprobeError, match="was removed while the run was at work"):
        Squares(out, [1]).with_work(is_enough=vanish).run()
    assert not out.exists()


def test_a_directory_that_vanishes_between_two_results_is_not_made_anew(tmp_path: Path) -> None:
    out = tmp_path / "out"
    squares = Squares(out, [1, 2])

    def finish(done: Mapping[str, int], files: ResultFiles) -> int:
        files.write("total.txt", lambda path: path.write_text("5") and None)
        shutil.rmtree(out)
        files.write_report(total=5)
        return 5

    squares.job = replace(squares.job, finish=finish)
    with pytest.raises(HeadprobeError, match="was removed while the run was at work"):
        squares.run()
    assert not out.exists()
    assert Squares(out, [1, 2]).run() == 5


def test_going_on_in_other_chunks_is_told_of_and_not_refused(tmp_path: Path) -> None:
    def squares(numbers: Sequence[int], **labels: int) -> Squares:
        made = Squares(tmp_path, numbers)
        made.job = replace(made.job, plan=Plan(identity=made.job.plan.identity, labels=labels))
        return made

    squares([1, 2], threads=2, prefill_chunk=64).run()
    with pytest.warns(HeadprobeWarning, match=r"threads was 2, now 1\): .* some 1e-4"):
        assert squares([1, 2, 3], threads=1, prefill_chunk=64).run() == 14
    assert report(tmp_path)["plan"]["threads"] == 1
    # Nothing is left to do in other chunks, or nothing has changed.
    squares([1, 2, 3], threads=4, prefill_chunk=32).run()
    squares([1, 2, 3, 4], threads=4, prefill_chunk=32).run()


def test_what_a_killed_run_left_of_a_file_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".heads.0a1b2c3d.csv").touch()
    Squares(tmp_path, [1]).run()
    assert not list(tmp_path.glob(".*"))

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from headprobe.errors import HeadprobeError, HeadprobeWarning, Interrupted, UsageError
from headprobe.models.bundled import bundled
from headprobe.models.loading import LoadedModel, load_model
from headprobe.prompts.spec import CaseSpec
from headprobe.runs import observer
from headprobe.runs.case_runner import observe_cases
from headprobe.runs.directory import CASES, RUN
from headprobe.runs.memory import MemoryOptions
from headprobe.runs.observation import Observation
from headprobe.runs.payload import Payload
from headprobe.runs.plan import PlannedRun, prepare
from headprobe.runs.progress import FILE_NAME as PROGRESS
from headprobe.runs.progress import Progress, open_progress
from headprobe.runs.score import score
from headprobe.scores import FILE_NAME
from headprobe.tasks import TASKS
from tests._support.reference import tiny


def test_a_run_without_a_passed_case_is_reported_as_complete(tmp_path: Path) -> None:
    loaded, _ = tiny("llama")
    spec = CaseSpec(lengths=(256,), depths=(50.0,), limit=3)
    run = prepare(loaded, TASKS["r2"], spec, out=tmp_path / "run")
    with pytest.raises(
        HeadprobeError, match=r"none of 3 cases passed \(3 failed: .*`decode=forced`"
    ):
        score(loaded, run)
    report = json.loads((run.out / RUN).read_text())
    assert (report["status"], report["observed"], report["accepted"]) == ("complete", 3, 0)
    assert not pd.read_parquet(run.out / CASES)["accepted"].any()
    assert not (run.out / FILE_NAME).exists()


@pytest.fixture(scope="module")
def nano() -> LoadedModel:
    return load_model("nano", device="cpu", dtype="float32")


def planned(nano: LoadedModel, out: Path, **fields: Any) -> PlannedRun:
    spec = CaseSpec(**{"lengths": (128, 160), "depths": (0.0, 100.0), "limit": 6} | fields)
    return prepare(nano, TASKS["r2"], spec, out=out)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The prompts' lengths of the cases that the model is asked."""
    found: list[int] = []

    def count(loaded: Any, cases: Any, *arguments: Any, **options: Any) -> Iterator[Observation]:
        for seen in observe_cases(loaded, cases, *arguments, **options):
            found.append(cases[seen.case_id].length)
            yield seen

    monkeypatch.setattr(observer, "observe_cases", count)
    return found


def test_more_cases_go_on_from_fewer_to_the_scores_of_all_at_once(
    nano: LoadedModel, asked: list[int], tmp_path: Path
) -> None:
    score(nano, planned(nano, tmp_path / "grown"))
    assert len(asked) == 6
    grown = score(nano, planned(nano, tmp_path / "grown", limit=10))
    assert len(asked) == 10
    whole = score(nano, planned(nano, tmp_path / "whole", limit=10))
    assert grown is not None
    assert whole is not None
    np.testing.assert_allclose(grown.per_case["r2"], whole.per_case["r2"], atol=1e-6)
    for name in (CASES, "heads.csv"):
        assert (tmp_path / "grown" / name).exists()
    one, other = (pd.read_parquet(tmp_path / name / CASES) for name in ("grown", "whole"))
    pd.testing.assert_frame_equal(one, other)
    # Back to fewer: nothing is asked, and nothing is lost.
    fewer = score(nano, planned(nano, tmp_path / "grown"))
    assert fewer is not None
    assert fewer.cases == 6
    score(nano, planned(nano, tmp_path / "grown", limit=10))
    assert len(asked) == 20


def results(out: Path) -> list[bytes]:
    """The bytes of the files whose contents do not depend on when they were written."""
    return [(out / name).read_bytes() for name in (CASES, "heads.csv")]


def stop_after(units: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Press Ctrl-C when so many units were added to a progress from now on."""
    left, add = [units], Progress.add

    def add_and_stop(progress: Progress, new: Mapping[str, Payload]) -> None:
        add(progress, new)
        left[0] -= len(new)
        if new and not left[0]:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "add", add_and_stop)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("until_stable", "stops"), [(None, range(1, 6)), (0.999, (2, 5))], ids=["all", "stable"]
)
def test_a_run_stopped_at_any_case_gives_the_same_bits(
    nano: LoadedModel, tmp_path: Path, until_stable: float | None, stops: Sequence[int]
) -> None:
    def run(name: str) -> PlannedRun:
        plan = planned(nano, tmp_path / name, depths=(0.0, 50.0, 100.0), limit=6)
        return replace(plan, until_stable=until_stable)

    # Several cases of one path are answered together, so some stops are in the middle of a pack.
    assert any(len(path.tails) > 1 for path in run("whole").tree.paths(range(6)))
    score(nano, run("whole"))
    for cases in stops:
        name = f"stopped-{cases}"
        with pytest.MonkeyPatch.context() as patch:
            stop_after(cases, patch)
            with pytest.raises(Interrupted):
                score(nano, run(name))
        score(nano, run(name))
        assert results(tmp_path / name) == results(tmp_path / "whole"), cases


TAMPERED: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a token beyond the vocabulary": lambda f: f["generated_ids"].append(10**7),
    "a negative token": lambda f: f["generated_ids"].append(-1),
    "a token as text": lambda f: f["generated_ids"].append("7"),
    "steps beyond the answer": lambda f: f.update(steps=[0, 10**6]),
    "steps backwards": lambda f: f.update(steps=[2, 1]),
    "three steps": lambda f: f.update(steps=[0, 1, 2]),
    "no steps": lambda f: f.pop("steps"),
    "a response that is none": lambda f: f.update(response=None),
    "a grade above all": lambda f: f.update(success=1e9),
    "a grade as text": lambda f: f.update(success="100"),
}


def tampered(payload: Payload, change: Callable[[dict[str, Any]], Any]) -> Payload:
    fields = json.loads(json.dumps(dict(payload.fields)))
    change(fields)
    return replace(payload, fields=fields)


def with_arrays(payload: Payload, change: Callable[[Any], Any]) -> Payload:
    return replace(payload, arrays={name: change(a) for name, a in payload.arrays.items()})


@pytest.mark.slow
def test_rows_that_say_what_cannot_be_are_done_anew_with_a_line(
    nano: LoadedModel, tmp_path: Path
) -> None:
    run = planned(nano, tmp_path / "run", limit=2)
    score(nano, run)
    whole = results(run.out)

    def redone(change: Callable[[Payload], Payload]) -> None:
        with open_progress(run.out / PROGRESS) as progress:
            key, payload = next(iter(progress.units()))
            progress._connection.execute("DELETE FROM unit WHERE key = ?", (key,))
            progress.add({key: change(payload)})
        with pytest.warns(HeadprobeWarning, match=r"a unit of work in .* it is done anew"):
            score(nano, run)
        assert results(run.out) == whole

    for change in TAMPERED.values():
        redone(partial(tampered, change=change))
    for value in (np.nan, np.inf):
        redone(partial(with_arrays, change=lambda scores, v=value: np.full_like(scores, v)))
    redone(partial(with_arrays, change=lambda scores: scores[:1]))


def test_the_same_needles_under_another_path_are_the_same_run(
    nano: LoadedModel, asked: list[int], tmp_path: Path
) -> None:
    for name in ("one.jsonl", "other.jsonl"):
        shutil.copy(bundled("needles", "nano", "r2.jsonl"), tmp_path / name)
        needles = tmp_path / "." / name
        result = score(nano, planned(nano, tmp_path / "run", needles=needles))
        assert result is not None
        assert result.plan["needles"] == str(needles)
    assert len(asked) == 6
    lines = (tmp_path / "one.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "other.jsonl").write_text("".join(lines[1:]))
    with pytest.raises(UsageError, match=r"needles_digest was .*, now"):
        score(nano, planned(nano, tmp_path / "run", needles=tmp_path / "other.jsonl"))


def test_the_same_model_under_another_name_is_the_same_run(
    nano: LoadedModel, asked: list[int], tmp_path: Path
) -> None:
    score(nano, planned(nano, tmp_path))
    other = replace(nano, layout=replace(nano.layout, id="./somewhere/nano"))
    result = score(other, planned(other, tmp_path))
    assert result is not None
    assert result.plan["model"] == "./somewhere/nano"
    assert len(asked) == 6


def test_chunks_and_threads_are_recorded_and_are_no_other_run(
    nano: LoadedModel, asked: list[int], tmp_path: Path
) -> None:
    score(nano, planned(nano, tmp_path))
    run = prepare(
        nano,
        TASKS["r2"],
        CaseSpec(lengths=(128, 160), depths=(0.0, 100.0), limit=6),
        out=tmp_path,
        memory=MemoryOptions(prefill_chunk=64),
    )
    result = score(nano, run)
    assert result is not None
    assert result.plan["prefill_chunk"] == 64
    assert result.plan["threads"] >= 1
    assert len(asked) == 6

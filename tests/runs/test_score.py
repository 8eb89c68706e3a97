import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from headprobe.errors import HeadprobeError, UsageError
from headprobe.models.bundled import bundled
from headprobe.models.loading import LoadedModel, load_model
from headprobe.prompts.spec import CaseSpec
from headprobe.runs import score as scoring
from headprobe.runs.case_runner import observe_cases
from headprobe.runs.directory import CASES, RUN
from headprobe.runs.memory import MemoryOptions
from headprobe.runs.observation import Observation
from headprobe.runs.plan import PlannedRun, prepare
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

    monkeypatch.setattr(scoring, "observe_cases", count)
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

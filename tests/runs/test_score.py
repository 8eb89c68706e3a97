import json
from pathlib import Path

import pandas as pd
import pytest

from headprobe.errors import HeadprobeError
from headprobe.prompts.spec import CaseSpec
from headprobe.runs.directory import CASES, RUN
from headprobe.runs.plan import prepare
from headprobe.runs.score import score
from headprobe.scores import FILE_NAME
from headprobe.tasks import TASKS
from tests._support.reference import tiny


def test_a_run_without_an_accepted_case_is_reported_as_complete(tmp_path: Path) -> None:
    loaded, _ = tiny("llama")
    spec = CaseSpec(lengths=(256,), depths=(50.0,), limit=3)
    run = prepare(loaded, TASKS["r2"], spec, out=tmp_path / "run")
    with pytest.raises(
        HeadprobeError, match=r"none of 3 cases was accepted \(3 failed: .*`decode=forced`"
    ):
        score(loaded, run)
    report = json.loads((run.out / RUN).read_text())
    assert (report["status"], report["observed"], report["accepted"]) == ("complete", 3, 0)
    assert not pd.read_parquet(run.out / CASES)["accepted"].any()
    assert not (run.out / FILE_NAME).exists()

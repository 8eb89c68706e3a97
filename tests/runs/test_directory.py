import csv
import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

from headprobe.errors import HeadprobeError, UsageError
from headprobe.files import file_digest
from headprobe.models.layout import HeadLayout
from headprobe.prompts.case import Case
from headprobe.runs.directory import (
    case_table,
    directory_for,
    newest_budget,
    newest_run,
    read_cases,
    remove_results,
    write_json,
)
from headprobe.runs.observation import Observation
from headprobe.scores import FILE_NAME as SCORES
from headprobe.scores import HeadScores
from headprobe.scores.tables import head_table, write_table

LAYOUT = HeadLayout(
    id="nano", architecture="LlamaForCausalLM", layers=2, num_heads=6, num_kv_heads=2, head_dim=8
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def case(case_id: int) -> Case:
    return Case(
        case_id=case_id,
        needle_id=case_id % 2,
        length=6,
        depth=100 / 3,
        position=1,
        input_ids=(1, 9, 8, 7, 6, 5),
        span_start=2,
        span_end=4,
        answer="tin drums",
        answer_ids=(8, 7),
        kind="linking",
    )


def observation(case_id: int, score: float) -> Observation:
    return Observation(
        case_id=case_id,
        generated_ids=(8, 7, 2),
        step_start=0,
        step_end=2,
        response='tin "drums",\n日本',
        score=score,
        scores={"r2": np.zeros((2, 6))},
    )


def table() -> pd.DataFrame:
    successes = [100.0, 50.0, 50.1, 0.0]
    return case_table(
        [case(i) for i in range(4)], [observation(i, s) for i, s in enumerate(successes)]
    )


def run(**changes: Any) -> HeadScores:
    per_case = np.random.default_rng(0).random((5, 2, 6), dtype=np.float32)
    fields: dict[str, Any] = {
        "layout": LAYOUT,
        "task": "r2",
        "per_case": {"r2": per_case, "mass": 1 - per_case},
        "needles": (0, 1, 2, 3, 4),
        "cases": 8,
    }
    return HeadScores(**fields | changes)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("nano", "outputs/nano/r2"),
        ("meta-llama/Meta-Llama-3-8B", "outputs/meta-llama--Meta-Llama-3-8B/r2"),
        ("models/mine", "outputs/mine/r2"),
        ("models/mine/", "outputs/mine/r2"),
        ("models/mine/../mine", "outputs/mine/r2"),
        ("/", "outputs/model/r2"),
        ("models/mine/Q4.K_M.gguf", "outputs/Q4.K_M/r2"),
        ("owner/name:sub/q4.gguf", "outputs/q4/r2"),
        ("mine+lora", "outputs/mine+lora/r2"),
    ],
)
def test_a_runs_directory_is_named_after_its_model_and_task(model: str, expected: str) -> None:
    Path("models/mine").mkdir(parents=True)
    assert directory_for(model, "r2") == Path(expected)


@pytest.mark.parametrize("model", [".", "..", "../mine"])
def test_a_model_given_by_a_path_of_dots_still_has_its_name(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("mine/mine").mkdir(parents=True)
    monkeypatch.chdir("mine/mine")
    assert directory_for(model, "r2") == Path("outputs/mine/r2")


def test_the_newest_run_is_the_one_written_last_at_any_depth() -> None:
    for age, place in ((2, "nano/r2"), (1, "meta/deep/retrieval"), (3, "nano/retrieval")):
        path = Path("outputs", place, SCORES)
        path.parent.mkdir(parents=True)
        path.touch()
        os.utime(path, (1_000_000 - age, 1_000_000 - age))
    Path("outputs/nano/unfinished").mkdir()
    assert newest_run() == Path("outputs/meta/deep/retrieval")


@pytest.mark.parametrize("folder", [False, True])
def test_no_run_is_a_usage_error_that_says_how_to_make_one(folder: bool) -> None:
    if folder:
        Path("outputs/nano").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"no run under outputs/; make one with `headprobe score`"):
        newest_run()


def test_a_run_that_was_stopped_is_told_where_there_is_no_other() -> None:
    Path("outputs/nano/r2").mkdir(parents=True)
    report = {"status": "stopped", "observed": 6, "cases": 200}
    write_json(report, Path("outputs/nano/r2/run.json"))
    with pytest.raises(UsageError, match=r"run in outputs/nano/r2 stopped after 6 of 200 cases"):
        newest_run()


def test_the_newest_budget_is_the_one_written_last() -> None:
    assert newest_budget(Path()) is None
    for age, name in ((2, "budget-a.json"), (1, "budget-b.json"), (0, "run.json")):
        Path(name).touch()
        os.utime(name, (1_000_000 - age, 1_000_000 - age))
    assert newest_budget(Path()) == Path("budget-b.json")


def test_clearing_removes_what_a_run_wrote_and_nothing_else() -> None:
    write_json({}, Path("run.json"))
    write_table(table(), Path("cases.parquet"))
    write_table(head_table(run(), seed=0), Path("heads.csv"))
    run().save(Path(SCORES))
    Path("notes.txt").touch()
    remove_results(Path())
    assert [path.name for path in Path().iterdir()] == ["notes.txt"]
    remove_results(Path())
    remove_results(Path("nowhere"))


def test_clearing_removes_nothing_where_a_directory_bears_a_files_name() -> None:
    write_json({}, Path("run.json"))
    run().save(Path(SCORES))
    Path("heads.csv").mkdir()
    with pytest.raises(UsageError, match=r"heads\.csv is a directory, no run's file; give another"):
        remove_results(Path())
    assert sorted(path.name for path in Path().iterdir()) == ["heads.csv", "run.json", SCORES]


def test_a_file_that_cannot_be_removed_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(path: Path, **_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "unlink", read_only)
    with pytest.raises(HeadprobeError, match=r"cannot remove scores.*: Read-only file system"):
        remove_results(Path())


def test_the_case_table_is_the_one_that_the_contract_describes() -> None:
    write_table(table(), Path("cases.parquet"))
    back = pyarrow.parquet.read_table("cases.parquet").to_pylist()
    assert [row["accepted"] for row in back] == [True, False, True, False]
    assert [row["case_id"] for row in back] == [0, 1, 2, 3]
    assert back[1] == {
        "case_id": 1,
        "needle_id": 1,
        "kind": "linking",
        "length": 6,
        "depth": 100 / 3,
        "position": 1,
        "input_ids": [1, 9, 8, 7, 6, 5],
        "span_start": 2,
        "span_end": 4,
        "answer": "tin drums",
        "wrong_answer": None,
        "answer_ids": [8, 7],
        "generated_ids": [8, 7, 2],
        "step_start": 0,
        "step_end": 2,
        "response": 'tin "drums",\n日本',
        "success": 50.0,
        "accepted": False,
    }


def test_kinds_are_texts_even_where_no_case_has_one() -> None:
    untold = case_table([replace(case(0), kind=None)], [observation(0, 100.0)])
    write_table(untold, Path("cases.parquet"))
    schema = pyarrow.parquet.read_schema("cases.parquet")
    assert str(schema.field("kind").type) in {"string", "large_string"}


def test_cases_and_observations_that_do_not_pair_up_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        case_table([case(0), case(1)], [observation(0, 100.0)])


def test_the_case_table_is_read_back_without_the_prompts() -> None:
    assert read_cases(Path()) is None
    write_table(table(), Path("cases.parquet"))
    back = read_cases(Path())
    assert back is not None
    assert "input_ids" not in back.columns
    assert back["success"].tolist() == [100, 50, 50.1, 0]
    assert back["depth"].tolist() == [100 / 3] * 4


def rows() -> int:
    found = read_cases(Path())
    assert found is not None
    return len(found)


def test_a_case_table_of_another_run_than_the_scores_is_refused() -> None:
    write_table(table(), Path("cases.parquet"))
    run().save(Path(SCORES), files={"cases.parquet": file_digest(Path("cases.parquet"))})
    assert rows() == 4
    write_table(table().head(2), Path("cases.parquet"))
    with pytest.raises(HeadprobeError, match=r"cases\.parquet is of another run than the scores"):
        read_cases(Path())
    # Scores of the first version say nothing of the files beside them.
    run().save(Path(SCORES))
    assert rows() == 2


@pytest.mark.parametrize("content", [b"", b"PAR1 nothing", None])
def test_a_damaged_case_table_is_a_clear_error(content: bytes | None) -> None:
    path = Path("cases.parquet")
    write_table(table(), path)
    path.write_bytes(path.read_bytes()[:-20] if content is None else content)
    with pytest.raises(HeadprobeError, match=r"cases\.parquet is damaged .*run `headprobe score`"):
        read_cases(Path())


def test_the_head_table_has_a_row_for_every_measure_and_head() -> None:
    write_table(head_table(run(), seed=3), Path("heads.csv"))
    with Path("heads.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    columns = "layer, head, kv_head, measure, score, std, ci_low, ci_high, rank"
    assert list(rows[0]) == columns.split(", ")
    assert len(rows) == 2 * 2 * 6
    places = [(row["measure"], int(row["layer"]), int(row["head"])) for row in rows]
    assert len(set(places)) == len(places)
    for row, (measure, layer, head) in zip(rows, places, strict=True):
        numbers = run().statistics(measure, seed=3)
        assert int(row["kv_head"]) == [0, 0, 0, 1, 1, 1][head]
        assert int(row["rank"]) == numbers.rank[layer, head]
        assert float(row["score"]) == pytest.approx(numbers.mean[layer, head], rel=1e-6)
        assert float(row["std"]) == pytest.approx(numbers.std[layer, head])
        assert float(row["ci_low"]) == pytest.approx(numbers.ci_low[layer, head])
        assert float(row["ci_high"]) == pytest.approx(numbers.ci_high[layer, head])


def test_json_is_written_as_it_reads() -> None:
    write_json({"plan": {"depths": [0.1]}, "status": "complete"}, Path("run.json"))
    text = Path("run.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"plan": {"depths": [0.1]}, "status": "complete"}
    assert text.endswith("}\n")


def test_a_file_that_cannot_be_written_leaves_the_old_one() -> None:
    write_json({"status": "stopped"}, Path("run.json"))
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_json({"status": object()}, Path("run.json"))
    assert json.loads(Path("run.json").read_text()) == {"status": "stopped"}
    assert [path.name for path in Path().iterdir()] == ["run.json"]

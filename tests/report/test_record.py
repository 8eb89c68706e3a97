from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from headprobe.allocators import allocate, parse_budget
from headprobe.budgets import CONTEXTS
from headprobe.errors import HeadprobeError, UsageError
from headprobe.report import build_record, find_sources
from headprobe.report.cases import WHOLE
from headprobe.report.packing import unpack
from headprobe.runs.directory import CASES
from headprobe.runs.kept_rows import read_rows
from headprobe.scores import HeadScores
from headprobe.scores.comparison import compare_runs
from tests._support.reports import NANO, make_ablation, make_evaluation, make_run

PLENTY = 10**9


def record_of(*paths: Path, room: int = PLENTY) -> dict[str, Any]:
    return dict(unpack(build_record(find_sources(paths), room=room)))


def test_scores_intervals_and_ranks_are_those_of_the_run(tmp_path: Path) -> None:
    scores = make_run(tmp_path)
    (run,) = record_of(tmp_path)["runs"]
    assert [measure["name"] for measure in run["measures"]] == ["r2", "contrast"]
    for measure in run["measures"]:
        numbers = scores.statistics(measure["name"], seed=0)
        assert measure["rank"] == numbers.rank.tolist()
        for name, expected in (
            ("score", numbers.mean),
            ("ci_low", numbers.ci_low),
            ("ci_high", numbers.ci_high),
        ):
            np.testing.assert_allclose(measure[name], expected, rtol=1e-3)
        assert measure["reliability"] == scores.reliability(measure["name"]).to_json()


def test_a_heads_grid_and_extremes_are_its_cases(tmp_path: Path) -> None:
    scores = make_run(tmp_path)
    (run,) = record_of(tmp_path)["runs"]
    table = pd.read_parquet(tmp_path / CASES)
    passed = table[table["accepted"]].reset_index(drop=True)
    details, cases = run["measures"][0]["details"], run["table"]
    assert cases["depths"] == [0.0, 50.0, 100.0]
    of_head = scores.per_case["r2"][:, 3, 5]
    low, high = details["low"][3][5], details["high"][3][5]
    for i, depth in enumerate(cases["depths"]):
        for j, length in enumerate(cases["lengths"]):
            here = ((passed["depth"] - depth).abs() < 2) & (passed["length"] == length)
            code = details["grid"][3][5][i][j]
            assert (code > 0) == here.any()
            if code:
                told = low + (code - 1) / 254 * (high - low)
                assert told == pytest.approx(of_head[here].mean(), abs=(high - low) / 200)
    strongest, weakest = details["extremes"][3][5]
    order = passed["case_id"].to_numpy()[np.argsort(-of_head, kind="stable")]
    assert [cases["case_id"][place] for place in strongest] == order[:3].tolist()
    assert [cases["case_id"][place] for place in weakest] == order[::-1][:3].tolist()
    spread = details["values_high"] - details["values_low"]
    told = details["values_low"] + np.array(details["values"][3][5][0]) / 65535 * spread
    np.testing.assert_allclose(told, np.sort(of_head)[::-1][:3], atol=spread / 1000)


def test_kept_rows_are_told_token_by_token(tmp_path: Path) -> None:
    make_run(tmp_path)
    rows = read_rows(tmp_path)
    assert rows is not None
    (run,) = record_of(tmp_path)["runs"]
    assert run["heads"] == [list(head) for head in rows.heads]
    told = run["kept"][1]
    (kept,) = (case for case in rows.cases if case.case_id == told["case_id"])
    assert told["text"] == [list(kept.tokens)]
    marks = told["marks"]
    assert (marks["needle"], marks["span"]) == ([[190, 210]], [[200, 210]])
    assert (marks["answer"], marks["wrong"]) == ([[201, 202]], [[195, 196]])
    assert [step["counts"] for step in told["steps"]] == [True, True, True, False, False]
    place = 0
    for i, (tokens, weights) in enumerate(
        zip(kept.top_tokens.reshape(-1, 128), kept.top_weights.reshape(-1, 128), strict=True)
    ):
        count = np.array(told["rows"]["count"]).ravel()[i]
        at = np.cumsum(told["rows"]["step"][place : place + count])
        levels = told["rows"]["level"][place : place + count]
        found = dict(zip(at.tolist(), levels, strict=True))
        for token, weight in list(zip(tokens.tolist(), weights.astype(float), strict=True))[:8]:
            if weight > 0.01:
                assert (found[token] / 255) ** 2 == pytest.approx(weight, abs=0.005)
        place += count
    assert np.abs(np.array(told["bins"]) / 15 - kept.bins / 255).max() < 0.04


def test_of_a_long_prompt_the_telling_stretches_are_told(tmp_path: Path) -> None:
    make_run(tmp_path, tokens=8000, kept=1)
    (told,) = record_of(tmp_path)["runs"][0]["kept"]
    assert sum(stop - start for start, stop in told["stretches"]) < WHOLE
    assert told["stretches"][0][0] == 0
    assert told["stretches"][-1][1] == told["tokens"] == 8000
    assert any(start <= 3990 and stop >= 4010 for start, stop in told["stretches"])
    for (start, stop), texts in zip(told["stretches"], told["text"], strict=True):
        assert texts == [f" word{i}" for i in range(start, stop)]


def test_budgets_say_what_they_keep(tmp_path: Path) -> None:
    scores = make_run(tmp_path, kept=0)
    given = allocate(
        scores.mean("r2"), NANO, strategy="pyramid", budget=parse_budget("64"), granularity="query"
    )
    given.save(tmp_path / "budget-pyramid-64.json")
    found = record_of(tmp_path)["budgets"]
    (told,) = (budget for budget in found if budget["name"])
    assert told["label"] == "pyramid 64"
    assert told["tokens"] == given.tokens.tolist()
    for kept, length in zip(told["kept"], CONTEXTS, strict=True):
        assert vars(given.footprint(length)).items() <= kept.items()
    divided = [budget["strategy"]["budget"] for budget in found if budget["name"] is None]
    assert divided == sorted(divided)
    assert 128 in divided


def test_a_size_that_is_given_is_not_divided_again(tmp_path: Path) -> None:
    scores = make_run(tmp_path, kept=0)
    given = allocate(scores.mean("r2"), NANO, budget=parse_budget("128"), beta=1.05)
    given.save(tmp_path / "budget-mine.json")
    found = record_of(tmp_path)["budgets"]
    assert [b["name"] is None for b in found if b["strategy"]["budget"] == 128] == [False]


def test_evaluations_and_ablations_are_told(tmp_path: Path) -> None:
    fields = make_evaluation(tmp_path / "evaluate")
    make_ablation(tmp_path / "ablate")
    record = record_of(tmp_path)
    (evaluation,), (ablation,) = record["evaluations"], record["ablations"]
    assert len(evaluation["points"]) == len(fields["results"])
    assert (evaluation["points"][1]["value"], evaluation["context"]) == (40.0, 1000)
    assert ablation["curves"][0]["top_k"] == [1, 8]


def test_charts_say_where_every_budget_stands(tmp_path: Path) -> None:
    make_run(tmp_path / "r2", kept=0)
    make_evaluation(tmp_path / "evaluate")
    make_ablation(tmp_path / "ablate")
    record = record_of(tmp_path / "r2", tmp_path / "evaluate", tmp_path / "ablate")
    (chart,) = record["evaluations"][0]["charts"]
    assert [line["name"] for line in chart["lines"]] == ["headkv", "uniform"]
    assert chart["full"] == 90.0
    for budget, place in zip(record["budgets"], chart["places"], strict=True):
        kept = np.minimum(budget["tokens"], 1000).mean() / 1000
        assert place["x"] == pytest.approx(kept)
        assert chart["low"] <= place["x"] <= chart["high"]
        # Measured at 1 % of the cache, 40 right, and at 10 %, 80 right.
        between = 40 + 40 * np.log10(kept / 0.01)
        if 0.01 <= kept <= 0.1:
            assert place["value"] == pytest.approx(between)
        else:
            assert place["value"] is None
    (ablated,) = record["ablations"][0]["charts"]
    assert [line["name"] for line in ablated["lines"]] == ["r2", "random heads"]
    assert [point["x"] for point in ablated["lines"][0]["points"]] == [2, 9]


def test_runs_that_are_alike_are_told_apart(tmp_path: Path) -> None:
    for name in ("one", "other"):
        make_run(tmp_path / name, kept=0)
    make_run(tmp_path / "retrieval", task="retrieval", measures=("retrieval",), kept=0)
    record = record_of(tmp_path)
    labels = [run["label"] for run in record["runs"]]
    assert labels == [
        f"tiny, r2 ({tmp_path / 'one'})",
        f"tiny, r2 ({tmp_path / 'other'})",
        "tiny, retrieval",
    ]
    assert record["title"] == "tiny"
    assert record["subtitle"].startswith("6 layers of 8 query heads on 4 KV heads")


def test_kv_heads_have_the_means_of_their_query_heads(tmp_path: Path) -> None:
    scores = make_run(tmp_path, kept=0)
    (run,) = record_of(tmp_path)["runs"]
    grouped = scores.mean("r2").reshape(6, 4, 2).mean(axis=2)
    told = run["measures"][0]["kv"]
    np.testing.assert_allclose(told["score"], grouped, rtol=1e-3)
    assert sorted(np.ravel(told["rank"])) == list(range(1, 25))
    assert np.ravel(told["rank"])[grouped.argmax()] == 1


def test_another_selection_is_told_apart(tmp_path: Path) -> None:
    fields = make_evaluation(tmp_path)
    fields["results"][1]["selection"] = "keydiff"
    # Evaluations of an earlier time name no selection.
    del fields["results"][2]["selection"]
    (tmp_path / "evaluation.json").write_text(json.dumps(fields))
    (evaluation,) = record_of(tmp_path)["evaluations"]
    names = [point["name"] for point in evaluation["points"]]
    assert names[:4] == ["full", "headkv x keydiff", "headkv", "uniform"]


def test_agreements_are_those_of_compare(tmp_path: Path) -> None:
    runs = {
        name: make_run(tmp_path / name, task=name, measures=(name,), seed=seed)
        for seed, name in enumerate(("r2", "retrieval"))
    }
    (found,) = record_of(tmp_path)["agreements"]
    (expected,) = compare_runs(list(runs.items())).agreements
    assert found["one"] == [0, 0]
    assert found["other"] == [1, 0]
    assert found["rank_correlation"] == pytest.approx(expected.rank_correlation, abs=1e-4)
    assert found["overlap"] == pytest.approx(expected.overlap, abs=1e-4)


def test_what_does_not_fit_is_left_out_and_named(tmp_path: Path) -> None:
    make_run(tmp_path)
    whole = record_of(tmp_path)
    assert whole["left_out"] == []
    small = record_of(tmp_path, room=30_000)
    (run,) = small["runs"]
    assert run["measures"][0]["details"] is not None
    assert small["left_out"]
    assert len(run["kept"]) < 4


def test_a_run_without_cases_is_told(tmp_path: Path) -> None:
    make_run(tmp_path, kept=0)
    (tmp_path / CASES).unlink()
    (run,) = record_of(tmp_path)["runs"]
    assert run["table"] is None
    assert run["kept"] == []


def test_cases_of_another_run_are_refused(tmp_path: Path) -> None:
    scores = make_run(tmp_path, kept=0)
    make_run(tmp_path / "other", cases=20, kept=0)
    (tmp_path / "other" / CASES).replace(tmp_path / CASES)
    HeadScores.save(scores, tmp_path / "scores.safetensors")
    with pytest.raises(HeadprobeError, match="different runs"):
        record_of(tmp_path)


def test_a_folder_of_runs_brings_them_all(tmp_path: Path) -> None:
    make_run(tmp_path / "model" / "r2")
    make_run(tmp_path / "model" / "retrieval", task="retrieval", measures=("retrieval",))
    make_evaluation(tmp_path / "model" / "evaluate-r2")
    found = find_sources([tmp_path / "model"])
    assert found.describe() == "2 runs, 1 evaluation"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("evaluation.json", "{}"),
        ("evaluation.json", "["),
        ("ablation.json", "[1]"),
        ("budget-x.json", "{}"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(HeadprobeError, match=name):
        find_sources([tmp_path])


def test_a_path_with_nothing_in_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        find_sources([tmp_path])
    with pytest.raises(UsageError, match="no file or directory"):
        find_sources([tmp_path / "absent"])

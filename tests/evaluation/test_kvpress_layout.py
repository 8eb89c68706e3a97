"""An evaluation in the layout of kvpress' own."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from headprobe.evaluation.benchmarks.rows import Row
from headprobe.evaluation.kvpress_layout import press_name, write_kvpress
from headprobe.evaluation.plan import PlannedEvaluation
from headprobe.evaluation.questions import Question
from headprobe.evaluation.results import FULL, Evaluation, MethodAnswers
from headprobe.evaluation.settings import QUERY_AGNOSTIC, QUERY_AWARE
from headprobe.runs.identity import Plan


def question(number: int, task: str) -> Question:
    row = Row(
        context="c",
        question=f"q{number}?",
        answers=("x", "y"),
        schema="ruler",
        task=task,
        answer_prefix=" A:",
        all_classes=("red", "blue"),
    )
    return Question(
        question_id=number,
        group=number,
        context_ids=(1,),
        question_ids=(2,),
        answers=row.answers,
        max_new_tokens=128,
        stops="end",
        metrics={"string_match_all": lambda response: 0.0},
        row=row,
    )


def method(setting: str, strategy: str, budget: str, fraction: float) -> MethodAnswers:
    return MethodAnswers(
        setting=setting,
        strategy=strategy,
        selection=None if strategy == FULL else "attention",
        budget=budget,
        is_baseline=strategy == "uniform",
        fractions=np.full(3, fraction),
        responses=("one", " two\n", ""),
        grades={"string_match_all": np.array([100.0, 50.0, 0.0])},
    )


def planned(tmp_path: Path, benchmark: str) -> PlannedEvaluation:
    identity: dict[str, Any] = {
        "benchmark": benchmark,
        "device": "cpu",
        "dtype": "float32",
        "attention": "sdpa",
        "answer_tokens": None,
        "lengths": [4096],
    }
    tasks = ["niah_single_1", "niah_single_1", "vt"]
    return PlannedEvaluation(
        subject="tiny",
        questions=[question(number, task) for number, task in enumerate(tasks)],
        keys=["a", "b", "c"],
        methods=[],
        metric="string_match_all",
        seed=7,
        plan=Plan(identity=identity, labels={"model": "meta/Llama"}),
        out=tmp_path,
        name=benchmark,
    )


def evaluation() -> Evaluation:
    methods = [
        method(setting, *one)
        for setting in (QUERY_AWARE, QUERY_AGNOSTIC)
        for one in ((FULL, "100%", 1.0), ("headkv", "16", 0.121), ("headkv", "12%", 0.12))
    ]
    return Evaluation(questions=(0, 1, 2), groups=(0, 1, 2), methods=tuple(methods))


def test_every_method_has_a_directory_that_kvpress_names(tmp_path: Path) -> None:
    written = write_kvpress(planned(tmp_path, "ruler"), evaluation(), tmp_path / "kvpress")
    assert [path.name for path in written] == [
        "ruler__4096__meta--Llama__no_press__0.00__query_aware",
        "ruler__4096__meta--Llama__headkv__0.88__query_aware",
        "ruler__4096__meta--Llama__headkv__0.88__query_aware__12%",
        "ruler__4096__meta--Llama__no_press__0.00",
        "ruler__4096__meta--Llama__headkv__0.88",
        "ruler__4096__meta--Llama__headkv__0.88__12%",
    ]
    for path in written:
        assert sorted(one.name for one in path.iterdir()) == [
            "config.yaml",
            "metrics.json",
            "predictions.csv",
        ]
    # By task, as kvpress' scorer of RULER rounds.
    assert json.loads((written[1] / "metrics.json").read_text()) == {
        "niah_single_1": {"string_match": 75.0},
        "vt": {"string_match": 0.0},
    }
    config = yaml.safe_load((written[1] / "config.yaml").read_text())
    assert config["query_aware"] is True
    assert (config["compression_ratio"], config["press_name"]) == (0.879, "headkv")
    assert list(config)[:6] == [
        "dataset",
        "data_dir",
        "model",
        "device",
        "press_name",
        "compression_ratio",
    ]
    table = pd.read_csv(written[1] / "predictions.csv", keep_default_na=False)
    assert table["predicted_answer"].tolist() == ["one", " two\n", ""]
    assert table["answer"][0] == "['x', 'y']"
    assert table["task"].tolist() == ["niah_single_1", "niah_single_1", "vt"]
    again = write_kvpress(planned(tmp_path, "ruler"), evaluation(), tmp_path / "kvpress")
    assert again == written


# The fields of the leaderboard's EvaluationConfig: it skips a directory that has any other.
KNOWN = {
    *("dataset", "data_dir", "model", "device", "press_name", "compression_ratio", "fraction"),
    *("key_channel_compression_ratio", "max_new_tokens", "max_context_length", "query_aware"),
    *("compress_questions", "output_dir", "log_level", "press_init_command", "model_kwargs"),
    *("seed", "threshold", "needle_depth", "compression_interval", "target_size", "fp8"),
    *("hidden_states_buffer_size", "restore_checkpoint"),
}


def test_the_leaderboard_reads_a_row_of_every_directory(tmp_path: Path) -> None:
    """As its ``load_evaluation_results`` does."""
    rows = []
    for folder in write_kvpress(planned(tmp_path, "ruler"), evaluation(), tmp_path / "kvpress"):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        assert set(config) <= KNOWN
        assert config["fraction"] == 1.0
        table = pd.read_csv(folder / "predictions.csv")
        metrics = json.loads((folder / "metrics.json").read_text())
        rows.append(
            (
                config["press_name"] + "_query_aware" * config["query_aware"],
                table["compression_ratio"].mean().round(2).item() or config["compression_ratio"],
                round(sum(one["string_match"] for one in metrics.values()) / len(metrics), 2),
            )
        )
        assert "3 questions" in config["press_init_command"]
    assert rows == [
        ("no_press_query_aware", 0, 37.5),
        ("headkv_query_aware", 0.88, 37.5),
        ("headkv_query_aware", 0.88, 37.5),
        ("no_press", 0, 37.5),
        ("headkv", 0.88, 37.5),
        ("headkv", 0.88, 37.5),
    ]


@pytest.mark.parametrize(
    ("benchmark", "column", "answer", "classes"),
    [
        ("ruler", "answer", ["x", "y"], None),
        ("longbench:trec", "answers", ["x", "y"], ["red", "blue"]),
        ("infinitebench:code_run", "answer", ["x", "y"], None),
        ("loogle:shortdep_qa", "answer", "x", None),
        ("longbench-v2", "answer", "x", None),
    ],
)
def test_a_scorer_finds_the_columns_of_its_data_set(
    tmp_path: Path, benchmark: str, column: str, answer: Any, classes: list[str] | None
) -> None:
    """What kvpress' ``calculate_metrics`` of the data set takes from its rows."""
    first, *_ = write_kvpress(planned(tmp_path, benchmark), evaluation(), tmp_path)
    table = pd.read_csv(first / "predictions.csv", keep_default_na=False)
    assert {"task", "predicted_answer", column} <= set(table)
    found = table[column][0]
    assert (ast.literal_eval(found) if isinstance(answer, list) else found) == answer
    assert ("all_classes" in table) == (classes is not None)
    if classes is not None:
        assert ast.literal_eval(table["all_classes"][0]) == classes


def read_from(tmp_path: Path, source: str) -> PlannedEvaluation:
    """RULER's rows out of a source, in place of such as are made at some lengths."""
    made = planned(tmp_path, "ruler")
    identity = {name: value for name, value in made.plan.identity.items() if name != "lengths"}
    labels = {**made.plan.labels, "questions": source}
    return replace(made, plan=Plan(identity=identity, labels=labels))


def test_rows_of_the_hub_are_named_by_their_configuration(tmp_path: Path) -> None:
    """As kvpress' ``--data_dir 4096``, of which its RULER has a configuration a length."""
    read = read_from(tmp_path, "hf:simonjegou/ruler@8192")
    first, *_ = write_kvpress(read, evaluation(), tmp_path)
    assert first.name == "ruler__8192__meta--Llama__no_press__0.00__query_aware"
    assert yaml.safe_load((first / "config.yaml").read_text())["data_dir"] == "8192"


def test_a_file_is_no_configuration_whatever_its_name(tmp_path: Path) -> None:
    read = read_from(tmp_path, "/home/me@here/rows.jsonl")
    first, *_ = write_kvpress(read, evaluation(), tmp_path)
    assert first.parent == tmp_path
    assert yaml.safe_load((first / "config.yaml").read_text())["data_dir"] is None


def test_a_set_that_is_named_is_the_task_of_rows_that_name_its_family_alone(tmp_path: Path) -> None:
    first, *_ = write_kvpress(planned(tmp_path, "ruler:niah_single_2"), evaluation(), tmp_path)
    assert json.loads((first / "metrics.json").read_text()) == {
        "niah_single_2": {"string_match": 50.0}
    }
    assert set(pd.read_csv(first / "predictions.csv")["task"]) == {"niah_single_2"}


def test_a_metric_that_compares_strategies_leaves_the_benchmarks_own_number(tmp_path: Path) -> None:
    made = replace(planned(tmp_path, "longbench:qasper"), metric="f1")
    first, *_ = write_kvpress(made, evaluation(), tmp_path)
    assert json.loads((first / "metrics.json").read_text()) == 50.0


@pytest.mark.parametrize(
    ("benchmark", "folder", "metrics"),
    [
        ("longbench:qasper", "longbench__qasper__", 50.0),
        ("infinitebench:code_run", "infinitebench__code_run__", 0.5),
        ("longbench-v2", "longbench-v2__meta", {"average": 0.5}),
        ("own", "own__", {"niah_single_1": {"string_match_all": 75.0}, "vt": None}),
    ],
)
def test_numbers_have_the_form_of_kvpress_scorers(
    tmp_path: Path, benchmark: str, folder: str, metrics: Any
) -> None:
    first, *_ = write_kvpress(planned(tmp_path, benchmark), evaluation(), tmp_path)
    assert first.name.startswith(folder)
    found = json.loads((first / "metrics.json").read_text())
    if benchmark == "own":
        assert found["niah_single_1"] == metrics["niah_single_1"]
    else:
        assert found == metrics


def test_masked_entities_are_matched_over_all_questions_as_kvpress_does(tmp_path: Path) -> None:
    """Its arithmetic written out: what cannot be read is one exact match missed."""
    made = planned(tmp_path, "loogle:shortdep_cloze")
    answers = [
        ("Ann Lee", "Rome"),
        ("{'<mask-0>': 'Bob'}",),
        ('{"<mask-0>": "x", "<mask-1>": "y"}',),
    ]
    asked = [replace(one, answers=own) for one, own in zip(made.questions, answers, strict=True)]
    responses = ("{'<mask-0>': 'Ann', '<mask-1>': 'Rome'}", "{'<mask-0>': 'Bob'}", "x and y")
    found = evaluation()
    methods = tuple(replace(one, responses=responses) for one in found.methods)
    first, *_ = write_kvpress(
        replace(made, questions=asked), replace(found, methods=methods), tmp_path
    )
    assert json.loads((first / "metrics.json").read_text()) == {
        "shortdep_cloze": {"exact_match": 0.5, "partial_match": 0.6}
    }
    told = pd.read_csv(first / "predictions.csv")["answer"]
    assert json.loads(told[0]) == {"<mask-0>": "Ann Lee", "<mask-1>": "Rome"}
    assert json.loads(told[1]) == {"<mask-0>": "Bob"}


@pytest.mark.parametrize(
    ("strategy", "selection", "press"),
    [
        ("uniform", "attention", "snapkv"),
        ("adaptive", "attention", "adakv_snapkv"),
        ("kvzip", "reconstruct", "kvzip_uniform"),
        ("kvzip_global", "reconstruct", "kvzip"),
        ("uniform", "expected", "uniform_expected"),
        ("uniform", "value", "critical_snapkv"),
        ("headkv", "attention", "headkv"),
        ("headkv", "defensive", "headkv_defensive"),
        ("defensive", "defensive", "defensive"),
        (FULL, None, "no_press"),
    ],
)
def test_methods_are_called_as_kvpress_calls_them(
    strategy: str, selection: str | None, press: str
) -> None:
    assert press_name(strategy, selection) == press

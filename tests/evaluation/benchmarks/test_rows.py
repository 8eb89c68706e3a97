"""Rows of every schema as people have them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headprobe.evaluation.benchmarks.rows import Row, parse_row, read_rows
from tests._support.refusals import refused

SHARED = Path(__file__).parents[3] / ".." / "shared" / "benchmarks"
KVPRESS = {"context": "c\n", "question": "q? ", "answer_prefix": " A:", "answer": ["x", "y"]}
PAIRS = [{"Q": "q?", "A": "x", "S": "It is x."}, {"Q": "r?", "A": 7, "S": "It is 7."}]
CHOICES = {f"choice_{letter}": f"option {letter}" for letter in "ABCD"}

ROWS: dict[str, dict[str, Any]] = {
    "kvpress": KVPRESS | {"task": "vt", "max_new_tokens": 30},
    "ruler": {
        "input": "Memorize.\nQuestion: Find all variables that are assigned the value 1 in the "
        "text above. Answer: they are: ",
        "outputs": ["x", "y"],
    },
    "loogle": {"input": "c", "title": "t", "qa_pairs": repr(PAIRS), "output": "none"},
    "longbench-v2": {"context": "c", "question": "q?", **CHOICES, "answer": "B", "length": "short"},
    "infinitebench": {"id": 1, "context": "c", "input": "q?", "answer": ["x"], "options": []},
    "babilong": {"input": "c", "question": "q?", "target": "x"},
    "squad": {"context": "c", "question": "q?", "answers": {"text": ["x"], "answer_start": [0]}},
    "hotpotqa": {"context": [["t", ["It ", "is x."]]], "question": "q?", "answer": "x"},
    "longbench": {
        "input": "q?",
        "context": "c",
        "answers": ["x"],
        "dataset": "trec",
        "all_classes": ["x", "z"],
        "_id": "1",
    },
    "": {"context": "c", "question": "q?", "answers": "x"},
}
# The published rows whole, beside the schema's own fields.
PUBLISHED = {
    "ruler": ROWS["ruler"] | {"index": 0, "length": 4096},
    "ruler, prefix apart": ROWS["ruler"] | {"answer_prefix": "they are:", "index": 0},
    "loogle, a summary": {"input": "c", "title": "t", "qa_pairs": "none", "output": "It is x."},
    "squad": ROWS["squad"] | {"id": "1", "title": "t"},
    "squad, the file": {
        "version": "1.1",
        "data": [
            {
                "title": "t",
                "paragraphs": [
                    {
                        "context": "c",
                        "qas": [{"id": "1", "question": "q?", "answers": [{"text": "x"}]}],
                    }
                ],
            }
        ],
    },
    "hotpotqa": ROWS["hotpotqa"] | {"id": "1", "type": "bridge", "level": "hard"},
    "longbench": ROWS["longbench"] | {"length": 5, "language": "en"},
}
NEEDED = {
    "kvpress": ("context", "question", "answer"),
    "ruler": ("input", "outputs"),
    "ruler, prefix apart": ("input", "outputs"),
    "loogle": ("input", "qa_pairs"),
    "loogle, a summary": ("input", "output"),
    "longbench-v2": ("context", "question", "answer", *CHOICES),
    "infinitebench": ("context", "input", "answer"),
    "babilong": ("input", "question", "target"),
    "squad": ("context", "question", "answers", "answers.text"),
    "squad, the file": (
        "data",
        *("data.0.paragraphs", "data.0.paragraphs.0.context", "data.0.paragraphs.0.qas"),
        *(f"data.0.paragraphs.0.qas.0.{name}" for name in ("question", "answers")),
        "data.0.paragraphs.0.qas.0.answers.0.text",
    ),
    "hotpotqa": ("context", "question", "answer"),
    "longbench": ("input", "context", "answers"),
    "": ("context", "question", "answers"),
}


@pytest.mark.parametrize("schema", ROWS)
def test_a_row_of_every_schema_is_told_by_its_fields(schema: str) -> None:
    row, *_ = parse_row(ROWS[schema])
    assert row.schema == schema
    assert row.answers[0] in ("x", "B")
    assert row.question.lstrip("Question: ")


def test_the_words_of_a_row_stay_as_they_are() -> None:
    (row,) = parse_row(ROWS["kvpress"])
    assert row == Row(
        context="c\n",
        question="q? ",
        answers=("x", "y"),
        schema="kvpress",
        task="vt",
        answer_prefix=" A:",
        max_new_tokens=30,
    )
    (row,) = parse_row(ROWS["ruler"])
    assert (row.task, row.context) == ("vt", "Memorize.\n")
    assert row.answer_prefix == " Answer: they are: "
    first, second = parse_row(ROWS["loogle"])
    assert (first.task, first.question, second.question) == ("shortdep_qa", "q?", "r?")
    assert second.answers == ("7",)
    (row,) = parse_row(ROWS["longbench-v2"])
    assert row.question.endswith("\n(A) option A\n(B) option B\n(C) option C\n(D) option D")
    (row,) = parse_row(ROWS["infinitebench"] | {"options": ["w", "x", "y", "z"]})
    assert (row.question, row.answers) == ("q?\nA. w\nB. x\nC. y\nD. z", ("B",))
    assert (row.choices, row.all_classes) == ("\nA. w\nB. x\nC. y\nD. z", ("w", "x", "y", "z"))
    (row,) = parse_row(KVPRESS | {"question": "q?\nA. w\nB. x\nC. y\nD. z", "answer": ["B"]})
    assert row.all_classes == ("w", "x", "y", "z")
    (row,) = parse_row({"context": "1 + 2 - 4", "input": "", "answer": [1, 3, -1]})
    assert (row.question, row.answers) == ("", ("1", "3", "-1"))
    (row,) = parse_row(ROWS["hotpotqa"])
    assert row.context == "t\nIt is x."
    (row,) = parse_row(ROWS["longbench"])
    assert (row.task, row.all_classes) == ("trec", ("x", "z"))


@pytest.mark.parametrize("schema", ["longbench", "infinitebench", "kvpress", ""])
@pytest.mark.parametrize("blank", ["", "\n"])
def test_what_asks_nothing_has_a_blank_question(schema: str, blank: str) -> None:
    name = "input" if "input" in ROWS[schema] else "question"
    (row,) = parse_row(ROWS[schema] | {name: blank})
    assert not row.question.strip()
    assert row.schema == schema


def test_questions_without_an_answer_and_summaries_are_told() -> None:
    (row,) = parse_row({"input": "c", "qa_pairs": "none", "output": "A summary."})
    assert (row.task, row.question, row.answers) == (
        "longdep_summarization",
        "",
        ("A summary.",),
    )
    assert parse_row(ROWS["squad"] | {"answers": {"text": [], "answer_start": []}}) == []


def test_masked_entities_and_long_dependencies_are_told() -> None:
    masks = [{"Q": "<mask-0>?", "A": {"<mask-0>": "Bob"}}]
    (row,) = parse_row({"input": "c", "qa_pairs": repr(masks)})
    assert (row.task, json.loads(row.answers[0])) == ("shortdep_cloze", {"<mask-0>": "Bob"})
    (row,) = parse_row({"input": "c", "qa_pairs": repr([{"Q": "q?", "A": "x", "S": None}])})
    assert (row.task, row.question) == ("shortdep_qa", "q?")
    long = [{"Q": "q?", "A": "x", "type": "computation", "S": ["One.", "Two."]}]
    (row,) = parse_row({"input": "c", "qa_pairs": repr(long)})
    assert row.task == "longdep_qa"


def without(row: Any, path: str) -> Any:
    """Copy a row without the field at the end of a path of fields and of places in lists."""
    name, _, rest = path.partition(".")
    if isinstance(row, list):
        return [without(one, rest) if str(n) == name else one for n, one in enumerate(row)]
    if rest:
        return {**row, name: without(row[name], rest)}
    return {key: value for key, value in row.items() if key != name}


@pytest.mark.parametrize(
    ("schema", "field"), [(schema, field) for schema in NEEDED for field in NEEDED[schema]]
)
def test_a_field_that_is_left_out_is_named_with_the_row(
    tmp_path: Path, schema: str, field: str
) -> None:
    whole = PUBLISHED.get(schema) or ROWS[schema]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (whole, without(whole, field))))
    own = field.rpartition(".")[2]
    with refused(rf"rows.jsonl, line 2: expected .* in field '(answers\.)?{own}', got ", path=path):
        list(read_rows(path))


@pytest.mark.parametrize(
    ("benchmark", "row", "field"),
    [
        ("ruler", {"index": 1, "length": 4096}, "input"),
        ("infinitebench", {"id": 1, "context": "c", "input": "q?"}, "answer"),
        ("loogle", {"id": 1}, "input"),
        ("squad", {"context": "c", "question": "q?"}, "answers"),
        ("longbench", {"context": "c", "answers": ["x"]}, "input"),
    ],
)
def test_a_row_that_nothing_tells_is_of_the_benchmark_that_is_asked_for(
    benchmark: str, row: dict[str, Any], field: str
) -> None:
    with pytest.raises(ValueError, match=f"in field '{field}', got None .a row of {benchmark}"):
        parse_row(row, benchmark=benchmark)
    (own,) = parse_row(ROWS[""], benchmark=benchmark)
    assert own.schema == ""


@pytest.mark.parametrize(
    ("schema", "change", "problem"),
    [
        ("kvpress", {"question": None}, "expected a text in field 'question'"),
        ("kvpress", {"answer": None}, "expected a text, a number or a list of them in field 'answ"),
        ("kvpress", {"max_new_tokens": "many"}, "a number of tokens in field 'max_new_tokens'"),
        ("ruler", {"outputs": []}, "in field 'outputs'"),
        ("ruler", {"input": "What?"}, "field 'input' holds no prompt of RULER"),
        ("loogle", {"input": ""}, "expected a text in field 'input'"),
        ("loogle", {"qa_pairs": "[1"}, "field 'qa_pairs' is no Python literal"),
        ("loogle", {"qa_pairs": "(" * 10_000}, "field 'qa_pairs'"),
        ("loogle", {"qa_pairs": "__import__('os')"}, "field 'qa_pairs' is no Python literal"),
        ("loogle", {"qa_pairs": "[]"}, "expected a list of questions in field 'qa_pairs'"),
        ("loogle", {"qa_pairs": "[{'Q': 'q?'}]"}, "question 1 of 'qa_pairs': expected a text"),
        ("loogle", {"qa_pairs": " " * 1_000_001}, "1,000,000 at most"),
        (
            "loogle",
            {"qa_pairs": "[{'Q': 'q?', 'A': 'x', 'S': 5}]"},
            "question 1 .* in field 'S', got 5",
        ),
        ("kvpress", {"answer": ""}, "in field 'answer', got ''"),
        ("squad", {"answers": {"text": None}}, "in field 'answers.text', got None"),
        ("longbench-v2", {"choice_C": None}, "expected a text in field 'choice_C'"),
        ("longbench-v2", {"answer": "E"}, "one of A, B, C, D in field 'answer'"),
        ("infinitebench", {"options": ["a", "b"]}, "is none of the 'options'"),
        ("infinitebench", {"answer": []}, "in field 'answer'"),
        ("babilong", {"target": None}, "in field 'target'"),
        ("squad", {"context": 7}, "expected a text in field 'context'"),
        ("hotpotqa", {"context": [["t"]]}, "expected titled paragraphs in field 'context'"),
        ("longbench", {"all_classes": "x"}, "expected a list of texts in field 'all_classes'"),
        ("longbench", {"answers": None}, "in field 'answers'"),
    ],
)
def test_a_field_that_is_unfit_is_named_with_the_row(
    tmp_path: Path, schema: str, change: dict[str, Any], problem: str
) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [ROWS[schema], ROWS[schema] | change]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with refused(f"rows.jsonl, line 2: .*{problem}", path=path):
        list(read_rows(path))


@pytest.mark.parametrize(
    ("name", "task", "questions"),
    [
        ("longbench_multifieldqa_zh", "multifieldqa_zh", 200),
        ("longbench_passage_retrieval_zh", "passage_retrieval_zh", 100),
        ("longbench_multi_news", "multi_news", 20),
        ("loogle_shortdep_qa", "shortdep_qa", 80),
        ("loogle_longdep_qa", "longdep_qa", 43),
        ("ruler_4096_niah_multikey_3", "niah", 200),
    ],
)
def test_the_public_rows_are_read_as_they_are(name: str, task: str, questions: int) -> None:
    path = SHARED / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip("the benchmarks' rows are not here")
    rows = [row for _, row in read_rows(path)]
    assert len(rows) == questions
    assert {row.task for row in rows} == {task}


def test_a_data_set_of_the_hub_is_read_row_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "test.jsonl").write_text(json.dumps(ROWS["squad"]) + "\n")
    (one,) = read_rows(f"hf:{tmp_path / 'set'}")
    assert one == ("row 1", parse_row(ROWS["squad"])[0])
    with refused("names no data set", option="questions", value="hf:"):
        list(read_rows("hf:"))

"""A benchmark's rows as its protocol asks them."""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from headprobe.errors import HeadprobeWarning
from headprobe.evaluation.benchmarks.asking import RowWriter, shorten
from headprobe.evaluation.benchmarks.metrics import METRICS
from headprobe.evaluation.benchmarks.protocol import Protocol
from headprobe.evaluation.benchmarks.question_set import benchmark_questions
from headprobe.evaluation.benchmarks.registry import BENCHMARKS, get_benchmark
from headprobe.evaluation.benchmarks.rows import Row, parse_row
from headprobe.evaluation.question_sets import QuestionSet
from headprobe.models.loading import LoadedModel, load_model
from headprobe.nano.tokenizer import build_tokenizer
from headprobe.prompts.spec import CaseSpec
from headprobe.prompts.style import PromptOptions
from tests._support.refusals import refused
from tests.evaluation.benchmarks.test_rows import KVPRESS, PAIRS, ROWS

CHAT = (
    "{% for m in messages %}<s>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}:{% endif %}"
)
LONGBENCH = {"input": "q?", "context": "c", "answers": ["x"], "dataset": "qasper"}
# The first half of the SHA-256 of each published prompt.
PUBLISHED = {
    "longbench:narrativeqa": "5178f3835db902391f3b5173acc47d7b",
    "longbench:qasper": "0fbdd123fe7f83d6d6a9c583ca28cb29",
    "longbench:multifieldqa_en": "20b4666a2de8a1f701bdb6c4e015fa9f",
    "longbench:multifieldqa_zh": "344b3a4e557cd5470c661b3d6b374339",
    "longbench:hotpotqa": "9ec4ae308865bd0c62af20b3dc7b12b3",
    "longbench:dureader": "ae53329f51b17908e08b8c6bf3669872",
    "longbench:gov_report": "91c25d585b189ced91c9280efcb4ecb5",
    "longbench:qmsum": "dca23b678fe0183bbd9555b57947022a",
    "longbench:multi_news": "2af3f28c40b902e6535d4910510d5165",
    "longbench:vcsum": "3e5d8241bc9b512eb4929c1ba80882a4",
    "longbench:trec": "0eff8bebdba99d91e9d7d91b6ab39455",
    "longbench:triviaqa": "00a802e6377e72fca39b169cf6c28893",
    "longbench:samsum": "a68d884234907eefcaa0eacf7b2997f6",
    "longbench:lsht": "f3edabdf7fae53d6cadfa7a10f3574d1",
    "longbench:passage_count": "986550b6c61009c629a4535766d94b7b",
    "longbench:passage_retrieval_en": "39b96b7fa52bdd2aa2bde34ea1991585",
    "longbench:passage_retrieval_zh": "c1e2346e245eb365bc33a1503cde2e47",
    "longbench:lcc": "ee9ec182ea5ffeb70a7140d55baea972",
    "longbench:repobench-p": "ee9ec182ea5ffeb70a7140d55baea972",
    "loogle:shortdep_qa": "bb4dd6ed05cde68fa7bf8b7fdaf2e153",
    "loogle:longdep_qa": "bb4dd6ed05cde68fa7bf8b7fdaf2e153",
    "loogle:longdep_summarization": "26610cbcfb4f96b3c7fe74612705dd23",
    "loogle:shortdep_cloze": "61daeffa923d10f24e0ff9fe7787f763",
}


@pytest.fixture(scope="module")
def nano() -> LoadedModel:
    return load_model("nano", weights=False)


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def ask(
    nano: LoadedModel, name: str, source: Path | None = None, *, style: Any = "auto", **spec: Any
) -> QuestionSet:
    return benchmark_questions(
        nano,
        get_benchmark(name),
        source,
        CaseSpec(**{"limit": None, **spec}),
        PromptOptions(style=style),
        max_new_tokens=None,
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_prompt_is_the_published_one_to_the_letter(name: str) -> None:
    benchmark, _, set_name = name.partition(":")
    protocol = BENCHMARKS[benchmark].protocols[set_name]
    question = "{input}" if benchmark == "longbench" else "{Q}"
    context = "{context}" if benchmark == "longbench" else "{input}"
    row = Row(context=context, question=question, answers=("x",), schema="")
    text = "".join(protocol.texts(row))
    assert hashlib.sha256(text.encode()).hexdigest()[:32] == PUBLISHED[name]


@pytest.mark.parametrize(
    "protocol", [p for one in BENCHMARKS.values() for p in one.protocols.values()], ids=str
)
def test_a_protocol_names_metrics_that_there_are(protocol: Protocol) -> None:
    assert set(protocol.metrics) <= set(METRICS)
    assert protocol.metrics
    assert json.loads(json.dumps(protocol.to_json()))["name"] == protocol.name


def test_where_the_answer_prefix_stands_is_the_styles() -> None:
    tokenizer = build_tokenizer()
    (row,) = parse_row(KVPRESS | {"context": "Noah likes kites.\n", "question": "What?"})

    def told(style: Any) -> tuple[str, str]:
        context, question = RowWriter(tokenizer, style=style).write(row)
        return tokenizer.decode(context), tokenizer.decode(question)

    assert told("prefix") == told("raw")
    tokenizer.chat_template = CHAT
    for style, wanted in (("raw", "What? A:"), ("chat", "What? A::"), ("prefix", "What?:A:")):
        assert "".join(told(style)[1].split()) == "".join(wanted.split())


def test_a_prompt_is_cut_where_the_protocol_says() -> None:
    prompt = tuple(range(100)), tuple(range(100, 110))
    assert shorten(prompt, None, "middle") == shorten(prompt, 110, "middle") == prompt
    context, question = shorten(prompt, 40, "middle")
    assert (*context, *question) == (*range(20), *range(90, 110))
    context, _ = shorten(prompt, 40, "middle of context")
    assert context == (*range(15), *range(85, 100))
    context, _ = shorten(prompt, 40, "end of context")
    assert context == tuple(range(30))
    with pytest.raises(ValueError, match="the question takes more"):
        shorten(prompt, 10, "middle")


def test_rows_are_asked_and_graded_by_their_sets_protocol(
    nano: LoadedModel, tmp_path: Path
) -> None:
    rows = [LONGBENCH, LONGBENCH | {"dataset": "trec", "all_classes": ["x", "y"]}]
    asked = ask(nano, "longbench", write(tmp_path / "rows.jsonl", *rows))
    first, second = asked.questions
    assert (first.stops, first.max_new_tokens, second.max_new_tokens) == ("end", 128, 64)
    assert {name: grade("x") for name, grade in first.metrics.items()} == {"score": 100}
    # Only the first line of a few-shot set counts.
    assert second.metrics["score"]("y\nx") == 0
    assert second.metrics["score"]("\nx\ny") == 100
    assert asked.name == "longbench"
    names = [one["name"] for one in asked.plan.identity["protocol"]]
    assert names == ["longbench:qasper", "longbench:trec"]
    (one,) = ask(nano, "longbench:qasper", write(tmp_path / "one.jsonl", LONGBENCH)).questions
    assert list(one.metrics) == ["qa_f1"]
    assert one.answers == ("x",)


@pytest.mark.parametrize(
    ("name", "schema", "right", "wrong"),
    [
        ("infinitebench:longbook_qa_eng", "infinitebench", "x", "y"),
        ("infinitebench:kv_retrieval", "infinitebench", 'It is "x".', "y"),
        ("longbench-v2", "longbench-v2", "The correct answer is (B)", "C"),
        ("squad", "squad", "the x", "y"),
    ],
)
def test_rows_of_every_benchmark_are_asked_by_their_protocol(
    nano: LoadedModel, tmp_path: Path, name: str, schema: str, right: str, wrong: str
) -> None:
    asked = ask(nano, name, write(tmp_path / "rows.jsonl", ROWS[schema]))
    (grade,) = asked.questions[0].metrics.values()
    assert (grade(right), grade(wrong)) == (100, 0)


CODE = {"context": "def func_12(x): ...", "input": "What does func_12(-3) return?", "answer": [4]}
NUMBERS = {
    "context": "[1, 5, 2]",
    "input": "You should answer with only one number, no other words. The Largest number of the "
    "list is:",
    "answer": [5],
}
SUM = {"context": "1 + 2", "input": "", "answer": [1, 3]}


@pytest.mark.parametrize(
    ("set_name", "row", "told"),
    [
        (
            "code_run",
            CODE,
            "There is a function called func_12 in the following Python code.\n\n"
            "def func_12(x): ...\n\nWhat does func_12(-3) return?\nThe return value is:",
        ),
        (
            "math_find",
            NUMBERS,
            "What is the largest number in the following list?\n\n[1, 5, 2]\n\n"
            f"{NUMBERS['input']}\n",
        ),
        (
            "math_calc",
            SUM,
            "Let us calculate the intermediate values of an expression.\n\n"
            "Expression: 1 + 3 + 4\nValues: [1, 4, 8]\n\n"
            "Expression: 8 - 3 + 2 - 4\nValues: [8, 5, 7, 3]\n\nExpression: 1 + 2\nValues:",
        ),
        (
            "code_debug",
            ROWS["infinitebench"] | {"options": ["w", "x", "y", "z"]},
            "Following is a Python code where exactly one of the functions/methods has a "
            "deliberate error that makes it crash.\n\nc\n\nq?\n\nOptions:\nA. w\nB. x\nC. y\n"
            "D. z\nThe correct option is:",
        ),
        (
            "longbook_choice_eng",
            ROWS["infinitebench"] | {"options": ["w", "x", "y", "z"]},
            "Read the book and answer the question.\n\nc\n\nq?\n\nOnly one of the following "
            "options is correct, tell me the answer using one single letter (A, B, C, or D). "
            "Don't say anything else.\nA. w\nB. x\nC. y\nD. z\nThe letter of the correct answer is",
        ),
    ],
)
def test_infinitebench_says_of_the_question_what_its_sets_say(
    set_name: str, row: dict[str, Any], told: str
) -> None:
    (read,) = parse_row(row)
    protocol = BENCHMARKS["infinitebench"].protocols[set_name]
    assert "".join(protocol.texts(read)) == told
    assert protocol.grade(protocol.metrics[0], read, " ".join(read.answers)) == 100


def test_a_question_without_what_the_context_is_to_say_of_it_is_refused(
    nano: LoadedModel, tmp_path: Path
) -> None:
    rows = write(tmp_path / "rows.jsonl", CODE, CODE | {"input": "What does it return?"})
    with refused("line 2: the question names no function, as set infinitebench:code_run does"):
        ask(nano, "infinitebench:code_run", rows)


def test_the_choices_of_longbench_v2_stand_where_its_prompt_has_them() -> None:
    (row,) = parse_row(ROWS["longbench-v2"])
    protocol = BENCHMARKS["longbench-v2"].protocols["longbench-v2"]
    assert protocol.texts(row)[1].startswith(
        "What is the correct answer to this question: q?\nChoices:\n(A) option A\n(B) option B\n"
    )


@pytest.mark.parametrize("name", ["qasper", "qasper_e", "qasper-e"])
def test_rows_of_longbench_e_are_asked_by_the_sets_of_longbench(name: str) -> None:
    (row,) = parse_row(LONGBENCH | {"dataset": name})
    assert get_benchmark("longbench").protocol_of(row).name == "longbench:qasper"
    assert get_benchmark("longbench:qasper").protocol_of(row).name == "longbench:qasper"


def test_questions_about_one_context_are_of_one_group(nano: LoadedModel, tmp_path: Path) -> None:
    rows = [LONGBENCH, LONGBENCH | {"input": "r?"}, LONGBENCH | {"context": "d"}]
    asked = ask(nano, "longbench", write(tmp_path / "rows.jsonl", *rows)).questions
    assert [one.group for one in asked] == [0, 0, 1]


def test_labels_that_a_question_names_do_not_count(nano: LoadedModel, tmp_path: Path) -> None:
    row = {"input": "c", "question": "Where was it before the kitchen?", "target": "office"}
    asked = ask(nano, "babilong:qa3", write(tmp_path / "rows.jsonl", row))
    grade = asked.questions[0].metrics["label"]
    assert grade("The office, before the kitchen. The garden.") == 100
    assert grade("The office or the garden.") == 0


def test_rows_in_their_own_words_are_left_in_them(nano: LoadedModel, tmp_path: Path) -> None:
    row = KVPRESS | {"task": "qasper", "context": "Noah.", "question": "Who?"}
    (asked,) = ask(nano, "longbench", write(tmp_path / "rows.jsonl", row)).questions
    said = nano.tokenizer.decode(asked.context_ids)
    assert "article" not in said
    assert "Noah" in said


def test_every_question_of_a_document_is_asked(nano: LoadedModel, tmp_path: Path) -> None:
    row = {"input": "Noah likes kites. " * 999, "qa_pairs": repr(PAIRS), "output": "none"}
    path = write(tmp_path / "rows.jsonl", row)
    with pytest.warns(HeadprobeWarning, match="2 of 2 prompts .* the middle is left out"):
        asked = ask(nano, "loogle", path).questions
    assert nano.max_context is not None
    for question in asked:
        size = len(question.context_ids) + len(question.question_ids)
        assert size == nano.max_context - 300
    assert [list(one.metrics) for one in asked] == [["qa_f1", "rouge_l_recall"]] * 2


def test_generated_prompts_leave_room_for_their_answers(nano: LoadedModel) -> None:
    pytest.importorskip("wonderwords")
    asked = ask(nano, "ruler:niah_multikey_3", lengths=(1200, 1600), limit=4)
    sizes = [len(one.context_ids) + len(one.question_ids) for one in asked.questions]
    assert all(
        low < size <= most - 128
        for low, size, most in zip([900, 1300] * 2, sizes, [1200, 1600] * 2, strict=True)
    )
    fewer = ask(nano, "ruler:niah_multikey_3", lengths=(1200, 1600), limit=2)
    assert [one.key for one in fewer.questions] == [one.key for one in asked.questions[:2]]
    assert asked.plan.identity["lengths"] == [1200, 1600]
    assert asked.questions[0].metrics["string_match_all"](asked.questions[0].answers[0]) == 100
    every = ask(nano, "ruler", lengths=(1900,), limit=11)
    assert len({one.row.task for one in every.questions if one.row}) == 11
    assert set(every.questions[0].metrics) == {"string_match_all"}


@pytest.mark.parametrize(
    ("name", "options", "facts"),
    [
        ("ruler:qa_1", {}, {"option": "benchmark", "value": "ruler:qa_1"}),
        ("longbench", {}, {"option": "benchmark", "value": "longbench"}),
        ("ruler:vt", {"lengths": (10**6,)}, {"option": "lengths", "value": 10**6}),
        ("ruler:vt", {"lengths": (60,)}, {"option": "lengths", "value": 60}),
        ("ruler:vt", {"depths": (0.0,)}, {"option": "depths", "value": (0.0,)}),
        ("ruler:vt", {"style": "shots"}, {"option": "prompt", "value": "shots"}),
    ],
)
def test_what_a_benchmark_has_no_room_for_is_refused(
    nano: LoadedModel, name: str, options: dict[str, Any], facts: dict[str, Any]
) -> None:
    with refused(**facts):
        ask(nano, name, **options)


OTHERS = [
    ("ruler:vt", LONGBENCH, "longbench"),
    ("longbench:qasper", ROWS["ruler"], "ruler"),
    ("longbench:qasper", ROWS["loogle"], "loogle"),
    ("longbench:hotpotqa", ROWS["hotpotqa"], "hotpotqa"),
    ("infinitebench:passkey", ROWS["babilong"], "babilong"),
    ("squad", ROWS["longbench-v2"], "longbench-v2"),
    ("loogle:shortdep_qa", ROWS["infinitebench"], "infinitebench"),
    ("longbench", ROWS["squad"], "squad"),
]


@pytest.mark.parametrize(("name", "row", "schema"), OTHERS)
def test_rows_of_another_benchmark_are_refused(
    nano: LoadedModel, tmp_path: Path, name: str, row: dict[str, Any], schema: str
) -> None:
    path = write(tmp_path / "rows.jsonl", KVPRESS | {"task": ""}, row)
    benchmark = name.partition(":")[0]
    wanted = name if ":" in name else f"{name}:{next(iter(BENCHMARKS[benchmark].protocols))}"
    with refused(f"line 2: the row is of {schema}, not of {benchmark}", path=path):
        ask(nano, wanted, path)
    own = ROWS[""] | {"dataset": "of mine"}
    mine = write(tmp_path / "own.jsonl", ROWS[""] | {"context": "d"}, own)
    assert len(ask(nano, wanted, mine).questions) == 2


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("babilong:qa10", ROWS["babilong"] | {"task": "qa1"}),
        ("ruler:niah_single_1", ROWS["ruler"]),
    ],
)
def test_sets_whose_names_begin_alike_are_told_apart(
    nano: LoadedModel, tmp_path: Path, name: str, row: dict[str, Any]
) -> None:
    with refused("line 1: the row is of set"):
        ask(nano, name, write(tmp_path / "rows.jsonl", row))


def test_a_family_of_ruler_is_each_of_its_sets() -> None:
    (row,) = parse_row(
        ROWS["ruler"] | {"input": "What is the special magic number for x? The special magic is"}
    )
    assert get_benchmark("ruler:niah_multikey_3").protocol_of(row).name == "ruler:niah_multikey_3"
    with pytest.raises(ValueError, match="the row is of set niah, not vt"):
        get_benchmark("ruler:vt").protocol_of(row)


@pytest.mark.parametrize("classes", [None, [], "left out"])
def test_a_row_without_the_classes_to_tell_apart_is_refused(
    nano: LoadedModel, tmp_path: Path, classes: Any
) -> None:
    row = LONGBENCH | {"dataset": "trec"}
    row |= {} if classes == "left out" else {"all_classes": classes}
    path = write(tmp_path / "rows.jsonl", row)
    with refused("line 1: expected a list of texts in field 'all_classes', got none", path=path):
        ask(nano, "longbench", path)


def test_masked_entities_that_cannot_be_read_are_refused_before_the_model_runs(
    nano: LoadedModel, tmp_path: Path
) -> None:
    flat = {"context": "c", "question": "<mask-0> saw <mask-1>.", "answer": ["Bob", "Rome"]}
    (asked,) = ask(nano, "loogle:shortdep_cloze", write(tmp_path / "hub.jsonl", flat)).questions
    assert asked.metrics["cloze"]("{'<mask-0>': 'Bob', '<mask-1>': 'Oslo'}") == 50
    path = write(tmp_path / "rows.jsonl", flat, flat | {"answer": "{'<mask-0>': 'Bob'"})
    with refused("line 2: expected an object of masked entities in field 'answer', got", path=path):
        ask(nano, "loogle:shortdep_cloze", path)


def test_a_row_that_brings_its_tokens_has_room_for_them_and_they_are_recorded(
    nano: LoadedModel, tmp_path: Path
) -> None:
    row = KVPRESS | {"context": "Noah likes kites. " * 999, "task": "vt", "max_new_tokens": 500}
    path = write(tmp_path / "rows.jsonl", row)
    assert nano.max_context is not None
    with pytest.warns(HeadprobeWarning, match="1 of 1 prompts"):
        asked = ask(nano, "ruler:vt", path)
    (question,) = asked.questions
    assert len(question.input_ids) + question.max_new_tokens == nano.max_context
    assert question.max_new_tokens == 500
    (protocol,) = asked.plan.identity["protocol"]
    own = BENCHMARKS["ruler"].protocols["vt"].to_json()
    assert protocol == {**own, "style": "raw", "max_new_tokens": 500}
    same = ask(nano, "ruler:vt", write(tmp_path / "same.jsonl", KVPRESS))
    assert same.plan.identity["protocol"] == [{**own, "style": "raw"}]
    mixed = write(tmp_path / "mixed.jsonl", KVPRESS, KVPRESS | {"max_new_tokens": 9})
    (protocol,) = ask(nano, "ruler:vt", mixed).plan.identity["protocol"]
    assert protocol["max_new_tokens"] == [9, own["max_new_tokens"]]


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("longbench:trec", {"dataset": "trec", "input": "", "all_classes": ["x"]}),
        ("longbench:triviaqa", {"dataset": "triviaqa", "input": " "}),
        ("longbench:samsum", {"dataset": "samsum", "input": ""}),
        ("longbench:lsht", {"dataset": "lsht", "input": "", "all_classes": ["x"]}),
        ("ruler:vt", {"question": "", "answer_prefix": ""}),
    ],
)
def test_where_nothing_stands_after_a_context_its_last_token_is_read_after_the_compression(
    nano: LoadedModel, tmp_path: Path, name: str, row: dict[str, Any]
) -> None:
    row = {"context": "Noah likes kites.", "answers": ["x"], **row}
    benchmark = get_benchmark(name)
    (read,) = parse_row(row)
    context, question, prefix = benchmark.protocol_of(read).texts(read)
    assert not (question + prefix).strip()
    (asked,) = ask(nano, name, write(tmp_path / "rows.jsonl", row)).questions
    assert len(asked.question_ids) == 1
    whole = "".join(nano.tokenizer.decode(asked.input_ids[1:]).split())
    assert whole == "".join(context.split())


def test_a_row_of_the_hub_that_asks_for_a_summary_is_asked_by_its_set(
    nano: LoadedModel, tmp_path: Path
) -> None:
    row = {"context": "Noah.", "question": "", "answer": "x", "task": "summarization"}
    path = write(tmp_path / "rows.jsonl", row)
    (asked,) = ask(nano, "loogle:longdep_summarization", path).questions
    assert "Summarization" in nano.tokenizer.decode(asked.question_ids).replace(" ", "")


def test_a_context_of_one_token_that_asks_nothing_is_refused(
    nano: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = RowWriter(nano.tokenizer)
    monkeypatch.setattr(writer._pieces, "start", list)
    (row,) = parse_row(KVPRESS | {"context": "a", "question": "", "answer_prefix": ""})
    with pytest.raises(ValueError, match="the context is a single token and nothing is asked"):
        writer.write(row)


def test_rows_of_another_set_are_refused(nano: LoadedModel, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", LONGBENCH)
    with refused("line 1: the row is of set qasper, not trec", path=path):
        ask(nano, "longbench:trec", path)
    unnamed = write(tmp_path / "unnamed.jsonl", {**LONGBENCH, "dataset": ""})
    with refused("line 1: the row names no set of longbench", path=unnamed):
        ask(nano, "longbench", unnamed)
    assert len(ask(nano, "longbench:musique", unnamed).questions) == 1
    with refused("rows have their own lengths", option="lengths"):
        ask(nano, "longbench", path, lengths=(100,))


@pytest.mark.parametrize("typed", ["longbench2", "ruler:niah_multikey_9", "loogle:qasper", ":"])
def test_an_unknown_benchmark_is_refused_with_those_there_are(typed: str) -> None:
    with refused("ruler|niah_single_1|shortdep_qa", option="benchmark", value=typed):
        get_benchmark(typed)


def test_the_public_rows_are_asked(nano: LoadedModel) -> None:
    shared = Path(__file__).parents[3] / ".." / "shared" / "benchmarks"
    if not shared.is_dir():
        pytest.skip("the benchmarks' rows are not here")
    files = {
        "longbench:multifieldqa_zh": "longbench_multifieldqa_zh",
        "longbench": "longbench_multi_news",
        "ruler:niah_multikey_3": "ruler_4096_niah_multikey_3",
        "loogle:shortdep_qa": "loogle_shortdep_qa",
    }
    for name, file in files.items():
        with warnings.catch_warnings(action="ignore"):
            (question,) = ask(nano, name, shared / f"{file}.jsonl", limit=1).questions
        own = METRICS[next(iter(question.metrics))]
        if "zh" not in name:
            assert own(question.answers[0], question.answers, ()) > 99

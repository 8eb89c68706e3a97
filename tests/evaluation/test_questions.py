from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from headprobe.errors import HeadprobeWarning, UsageError
from headprobe.evaluation.questions import ANSWER_STEPS, Question, questions_of, read_questions
from headprobe.models.loading import LoadedModel, load_model
from headprobe.nano.tokenizer import build_tokenizer
from headprobe.prompts.spec import CaseSpec
from headprobe.prompts.style import PromptWriter
from headprobe.prompts.template import INSTRUCTION
from headprobe.runs.draw import DrawnCases, draw_cases
from headprobe.tasks import TASKS
from headprobe.tasks.grading import PASSED

PROBE = TASKS["r2"].probe
CHAT = "{% for m in messages %}<s>{{ m.content }}{% endfor %}:"


@pytest.fixture(scope="module")
def nano() -> LoadedModel:
    return load_model("nano", weights=False)


def draw(nano: LoadedModel, **options: Any) -> DrawnCases:
    return draw_cases(nano, PROBE, CaseSpec(lengths=(128,), limit=12), **options)


def plain_tokens(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_a_case_is_parted_where_its_question_begins(nano: LoadedModel) -> None:
    drawn = draw(nano, held_out=True)
    questions = questions_of(drawn, PROBE)
    for question, case in zip(questions, drawn.cases, strict=True):
        assert question.context_ids + question.question_ids == case.input_ids
        asked = INSTRUCTION.format(question=drawn.needles[case.needle_id].question)
        said = nano.tokenizer.decode(question.question_ids)
        assert "".join(said.split()) == "".join(asked.split())
        assert question.answers == (case.answer,)
        assert question.group == case.needle_id
        assert question.max_new_tokens == PROBE.max_new_tokens(case)
        passed = question.metrics[PASSED]
        assert passed(case.answer) == passed(f"I would say {case.answer}.") == 100
        assert passed("something else") == 0
        assert passed(f"{case.answer}, not {case.wrong_answer}") == 0
    longer = questions_of(drawn, PROBE, max_new_tokens=9)
    assert {question.max_new_tokens for question in longer} == {9}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row(**fields: Any) -> dict[str, Any]:
    own = {"context": "Noah likes kites.", "question": "What does Noah like?", "answers": "kites"}
    return own | fields


def test_questions_are_asked_by_the_tasks_template(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    path = write(
        tmp_path / "own.jsonl",
        row(answers=["kites", "red kites"]),
        {name: value for name, value in row(input="Who?").items() if name != "question"},
        row(),
    )
    first, second = read_questions(path, PromptWriter(tokenizer), max_context=None, limit=2)
    head = (tokenizer.bos_token_id,)
    assert first.context_ids == head + plain_tokens(tokenizer, "Noah likes kites.")
    asked = INSTRUCTION.format(question="What does Noah like?")
    assert (
        tokenizer.decode(first.question_ids).split()
        == tokenizer.decode(plain_tokens(tokenizer, asked)).split()
    )
    assert first.answers == ("kites", "red kites")
    assert second.answers == ("kites",)
    assert "Who" in tokenizer.decode(second.question_ids)
    # Of one context.
    assert (first.group, second.group) == (0, 0)
    assert first.max_new_tokens == ANSWER_STEPS
    assert not first.metrics


def test_a_chat_template_stands_around_context_and_question(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = CHAT
    (question,) = read_questions(
        write(tmp_path / "own.jsonl", row()),
        PromptWriter(tokenizer),
        max_context=None,
        max_new_tokens=3,
    )
    assert question.context_ids[0] == plain_tokens(tokenizer, "<s>")[0]
    colon = plain_tokens(tokenizer, "a:")[-1]
    assert question.question_ids[-2:] == (colon, colon)
    assert question.max_new_tokens == 3


def test_the_middle_of_a_long_context_is_left_out(tmp_path: Path) -> None:
    tokenizer = build_tokenizer()
    path = write(tmp_path / "own.jsonl", row(context="Noah likes kites. " * 50), row())
    (whole, short) = read_questions(path, PromptWriter(tokenizer), max_context=None)
    with pytest.warns(HeadprobeWarning, match="1 of 2 prompts .* 125 tokens: with room for"):
        shortened, same = read_questions(
            path, PromptWriter(tokenizer), max_context=61 + ANSWER_STEPS
        )
    capacity = 61 - len(whole.question_ids)
    assert len(shortened.context_ids) == capacity
    half = capacity // 2
    assert shortened.context_ids[:half] == whole.context_ids[:half]
    assert shortened.context_ids[-half:] == whole.context_ids[-half:]
    assert same.context_ids == short.context_ids


def test_a_question_pasted_twice_counts_once_and_a_warning_says_so(tmp_path: Path) -> None:
    copy = row(context="Noah  likes\nkites.", answers="a kite")
    path = write(tmp_path / "own.jsonl", row(), copy, row(question="Who likes kites?"), row())
    with pytest.warns(HeadprobeWarning, match="2 of 4 questions in .* 2 distinct questions"):
        first, second = read_questions(path, PromptWriter(build_tokenizer()), max_context=None)
    assert first.answers == ("kites",)
    assert (first.question_id, second.question_id, second.group) == (0, 1, 0)
    with pytest.warns(HeadprobeWarning, match="1 of 3 questions"):
        asked = read_questions(path, PromptWriter(build_tokenizer()), max_context=None, limit=2)
    assert [one.question_ids for one in asked] == [first.question_ids, second.question_ids]


def test_numbers_are_answers_as_they_are_written(tmp_path: Path) -> None:
    path = write(tmp_path / "own.jsonl", row(answers=[1969, "1970"]), row(context="b", answers=2.5))
    one, other = read_questions(path, PromptWriter(build_tokenizer()), max_context=None)
    assert (one.answers, other.answers) == (("1969", "1970"), ("2.5",))


@pytest.mark.parametrize("chat", [None, CHAT])
def test_an_empty_input_asks_for_an_answer_alone(tmp_path: Path, chat: str | None) -> None:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = chat
    rows = [{"context": row()["context"], "input": blank, "answers": "a"} for blank in ("", " ")]
    path = write(tmp_path / "summaries.jsonl", rows[0], row(), rows[1])
    with warnings.catch_warnings(record=True, action="always") as told:
        first, second = read_questions(path, PromptWriter(tokenizer), max_context=None)
    assert "1 of 2 rows ask nothing" in str(told[-1].message)
    assert first.context_ids == second.context_ids
    size = len(second.question_ids) - len(first.question_ids)
    assert second.question_ids[size + 1 :] == first.question_ids[1:]


@pytest.mark.parametrize(
    "blank", [{"question": ""}, {"question": "", "answer_prefix": ""}, {"question": "\n"}]
)
def test_an_empty_question_is_asked(tmp_path: Path, blank: dict[str, str]) -> None:
    path = write(tmp_path / "own.jsonl", row(**blank), row(context="b c"))
    tokenizer = build_tokenizer()
    with pytest.warns(HeadprobeWarning, match="1 of 2 rows ask nothing"):
        first, _ = read_questions(path, PromptWriter(tokenizer), max_context=None)
    assert first.question_ids
    said = "".join(tokenizer.decode(first.input_ids[1:]).split())
    assert said.startswith("Noahlikeskites.")
    assert (said == "Noahlikeskites.") == ("answer_prefix" in blank)


def test_a_row_that_brings_its_tokens_has_room_for_them(tmp_path: Path) -> None:
    path = write(tmp_path / "own.jsonl", row(context="Noah likes kites. " * 50, max_new_tokens=100))
    writer = PromptWriter(build_tokenizer())
    with pytest.warns(HeadprobeWarning, match="1 of 1 prompts are longer than 200 tokens"):
        (asked,) = read_questions(path, writer, max_context=200)
    assert (asked.max_new_tokens, len(asked.input_ids)) == (100, 100)
    with pytest.warns(HeadprobeWarning):
        (asked,) = read_questions(path, writer, max_context=200, max_new_tokens=80)
    assert (asked.max_new_tokens, len(asked.input_ids)) == (80, 120)


def test_a_json_array_of_questions_is_read(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps([row(), row(question="Who?")], indent=1))
    asked = read_questions(path, PromptWriter(build_tokenizer()), max_context=None)
    assert [one.answers for one in asked] == [("kites",), ("kites",)]
    path.write_text(json.dumps([row(), row(question=None)]))
    with pytest.raises(
        UsageError, match=r"own\.json, entry 2: expected a text in field 'question'"
    ):
        read_questions(path, PromptWriter(build_tokenizer()), max_context=None)


@pytest.mark.parametrize("name", ["multi_news", "multifieldqa_zh", "passage_retrieval_zh"])
def test_longbenchs_rows_are_read_as_people_have_them(name: str) -> None:
    path = Path(__file__).parents[2] / ".." / "shared" / "benchmarks" / f"longbench_{name}.jsonl"
    if not path.is_file():
        pytest.skip("the benchmarks' rows are not here")
    with warnings.catch_warnings(record=True, action="always") as told:
        asked = read_questions(path, PromptWriter(build_tokenizer()), max_context=4064, limit=3)
    assert len(asked) == 3
    assert all(one.answers[0] for one in asked)
    assert ("3 of 3 rows ask nothing" in str([t.message for t in told])) == (name == "multi_news")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("{", "line 3: not JSON"),
        ("[1]", "line 3: expected a JSON object"),
        (json.dumps(row(context=" ")), "line 3: expected a text in field 'context'"),
        (json.dumps(row(question=7)), "line 3: expected a text in field 'question', got 7"),
        ('{"context": "a", "answers": "b"}', "line 3: expected a text in field 'question'"),
        (json.dumps(row(answers=[])), "line 3: expected a text, a number or a list of them"),
        (json.dumps(row(answers=["a", True])), "line 3: expected a text, a number or a list"),
        (json.dumps(row(answers=["a", float("nan")])), "line 3: expected a text, a number or a"),
        (json.dumps(row(answers=None)), "line 3: expected a text, a number or a list of them"),
        (json.dumps(row(answers=["\udc80"])), "line 3: field 'answers' has half a surrogate pair"),
        (json.dumps(row(question="", input="Who?")), "line 3: expected a text in field 'question'"),
        (json.dumps(row(question="?" * 1_000_001)), "line 3: field 'question' has 1,000,001 bytes"),
        (
            '{"context": "a", "question": "b", "context": "c"}',
            "line 3: key 'context' is given",
        ),
        ("[" * 100_000, "line 3: not JSON that can be read: nested too deeply"),
        (json.dumps(row())[:-1] + ', "id": ' + "9" * 5000 + "}", "line 3: a number of 5000 digits"),
        (json.dumps(row(question="Who? " * 40)), "line 3: the question takes more than"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path: Path, line: str, problem: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(f"{json.dumps(row())}\n\n{line}\n", encoding="utf-8")
    with pytest.raises(UsageError) as raised:
        read_questions(path, PromptWriter(build_tokenizer()), max_context=124)
    assert f"{path}, {problem}" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_files_without_questions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no question file"):
        read_questions(tmp_path / "none.jsonl", PromptWriter(build_tokenizer()), max_context=None)
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UsageError, match="holds no question"):
        read_questions(tmp_path / "empty.jsonl", PromptWriter(build_tokenizer()), max_context=None)
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(UsageError, match="cannot read the question file"):
        read_questions(tmp_path / "bytes.jsonl", PromptWriter(build_tokenizer()), max_context=None)


def test_a_question_has_all_its_parts() -> None:
    with pytest.raises(ValueError, match="got 0, 1, 1 and 5"):
        Question(
            question_id=0,
            group=0,
            context_ids=(),
            question_ids=(1,),
            answers=("a",),
            max_new_tokens=5,
        )

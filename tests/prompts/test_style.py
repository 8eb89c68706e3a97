"""Prompt styles, worked examples, and what is decided about them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from headprobe.errors import UsageError
from headprobe.models.bundled import bundled
from headprobe.prompts.needles import Needle, read_needles
from headprobe.prompts.style import (
    PromptDecision,
    PromptOptions,
    PromptStyle,
    PromptWriter,
    append_answer,
    describe_options,
    read_chat_template,
    shares_words,
)
from headprobe.prompts.template import INSTRUCTION
from tests._support.chat_templates import EXAMPLES, NEEDLE, ask, real, tokenizer_with

DATA = bundled("needles")
SHOTS = sorted(DATA.glob("*/shots/*.jsonl"))


def test_a_raw_prompt_has_no_template_and_ends_with_the_instruction() -> None:
    case, prompt = ask(real("phi-4"), "raw")
    assert prompt.startswith(" Rain fell.")
    assert prompt.endswith(INSTRUCTION.format(question=NEEDLE.question))
    assert real("phi-4").decode(list(case.answer_ids)) == " newts"


def test_without_a_template_prefix_is_raw() -> None:
    plain = tokenizer_with(None)
    assert ask(plain, "prefix")[0].input_ids == ask(plain, "raw")[0].input_ids


def test_without_a_template_worked_examples_are_raw_text() -> None:
    _, prompt = ask(tokenizer_with(None), "shots")
    shown = "".join(
        one.text + INSTRUCTION.format(question=one.question) + f" {one.answer}\n\n"
        for one in EXAMPLES
    )
    assert prompt.startswith(shown)
    assert prompt.endswith(INSTRUCTION.format(question=NEEDLE.question))


def test_the_answer_prefix_is_the_users() -> None:
    writer = PromptWriter(real("qwen-2.5"), style="prefix", answer_prefix="The answer is ")
    chat_affixes = writer.chat_affixes()
    assert real("qwen-2.5").decode(list(chat_affixes.tail)).endswith("assistant\nThe answer is")
    assert chat_affixes.answer_ids("newts", writer.pieces) == writer.pieces.encode(" newts")


@pytest.mark.parametrize(
    ("prefix", "joined"),
    [("Answer:", "Answer: 林"), ("答案\uff1a", "答案\uff1a林"), ("Réponse:", "Réponse: 林")],
)
def test_an_answer_follows_a_space_except_after_full_width(prefix: str, joined: str) -> None:
    assert append_answer(prefix, "林") == joined


def test_the_question_is_found_in_every_style() -> None:
    for style in ("raw", "chat", "prefix", "shots"):
        case, _ = ask(real("qwen-3"), style)
        asked = case.question
        assert asked is not None
        text = real("qwen-3").decode(list(case.input_ids[asked.start : asked.end]))
        assert text.strip() == NEEDLE.question
        assert real("qwen-3").decode(list(asked.blank_ids)).strip() == "N/A"


def test_examples_with_a_name_or_answer_of_the_needle_are_passed_over() -> None:
    writer = PromptWriter(
        real("phi-4"),
        style="shots",
        examples=[replace(EXAMPLES[0], answer="newts"), *EXAMPLES[1:], EXAMPLES[0]],
    )
    head = real("phi-4").decode(list(writer.chat_affixes(NEEDLE).head))
    assert head.index("Dov") < head.index("Cleo")
    with pytest.raises(UsageError, match="no worked example without the needle's words"):
        PromptWriter(real("phi-4"), style="shots", examples=[NEEDLE]).chat_affixes(NEEDLE)


@pytest.mark.parametrize("path", SHOTS, ids=lambda path: f"{path.parent.parent.name} {path.stem}")
def test_bundled_examples_share_no_name_and_no_answer_with_any_bundled_needle(path: Path) -> None:
    folder = path.parent.parent
    files = [*folder.glob("*.jsonl"), *(folder / "held-out").glob("*.jsonl")]
    needles: list[Needle] = [needle for file in files for needle in read_needles(file)]
    for example in read_needles(path)[:2]:
        assert not [needle for needle in needles if shares_words(example, needle)]


def test_every_task_has_worked_examples_in_every_language() -> None:
    assert len(SHOTS) == 2 * len({path.parent for path in SHOTS})
    assert all(len(read_needles(path)) >= 2 for path in SHOTS)


def test_auto_is_raw_without_a_template_and_open_with_one() -> None:
    auto = PromptOptions()
    assert PromptDecision.known(auto, tokenizer_with(None)).used == "raw"
    assert PromptDecision.known(auto, real("phi-4")).used is None
    assert PromptDecision.known(PromptOptions(style="shots"), real("phi-4")).used == "shots"


def test_auto_is_what_an_earlier_plan_with_the_same_options_says() -> None:
    auto, tokenizer = PromptOptions(), real("phi-4")
    decided = PromptDecision(asked="auto", used="shots", passed={"chat": 0.25}, prompts=8)
    plan = {
        "prompt_style": "shots",
        **decided.in_plan(),
        **describe_options(auto, tokenizer),
    }
    assert PromptDecision.known(auto, tokenizer, [{}, plan]) == decided
    other = PromptOptions(answer_prefix="So:")
    assert PromptDecision.known(other, tokenizer, [plan]).used is None
    assert PromptDecision.known(auto, real("qwen-3"), [plan]).used is None
    assert "25 %" in decided.describe()


def test_another_template_is_read_from_a_file_or_is_none(tmp_path: Path) -> None:
    file = tmp_path / "own.jinja"
    file.write_text("[own]{{ messages[0].content }}", encoding="utf-8")
    tokenizer = tokenizer_with("[model]{{ messages[0].content }}")
    PromptOptions(chat_template=read_chat_template(str(file))).apply_template(tokenizer)
    assert tokenizer.decode(list(PromptWriter(tokenizer).chat_affixes().head)) == "[own]"
    PromptOptions(chat_template=read_chat_template("none")).apply_template(tokenizer)
    assert PromptWriter(tokenizer).style == "raw"
    assert read_chat_template(None) is None
    with pytest.raises(UsageError, match="expected a Jinja file or none"):
        read_chat_template(str(tmp_path / "missing"))


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(UsageError, match="expected a text such as Answer:"):
        PromptOptions(answer_prefix=" ")
    with pytest.raises(UsageError, match="the model has no chat template"):
        PromptOptions(style="chat").apply_template(tokenizer_with(None))


def test_a_chinese_needle_is_asked_about_in_chinese() -> None:
    writer = PromptWriter(real("qwen-2.5"), style="prefix")
    asked = "钟声何时响起？"  # noqa: RUF001
    needle = Needle(text="钟声在午夜响起。", question=asked, answer="午夜", start=3, stop=5)
    frame = writer.chat_affixes(needle)
    assert frame.instruction.endswith("问题：{question}")  # noqa: RUF001
    assert frame.opening == "答案："  # noqa: RUF001
    assert frame == writer.chat_affixes(language="chinese") != writer.chat_affixes()
    own = PromptWriter(real("qwen-2.5"), style="prefix", answer_prefix="Answer:")
    assert own.chat_affixes(needle).opening == "Answer:"


@pytest.mark.parametrize("style", ["raw", "chat", "prefix", "shots"])
def test_an_answer_prefix_may_hold_braces(style: PromptStyle) -> None:
    prefix = 'Answer as {"name": {'
    case, prompt = ask(real("qwen-2.5"), style, answer_prefix=prefix)
    assert NEEDLE.question in prompt
    assert prefix in prompt
    assert case.question is not None

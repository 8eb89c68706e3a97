"""What chat templates, real and odd ones, put around a user's text."""

from __future__ import annotations

import pytest

from headprobe.errors import HeadprobeWarning, UsageError
from headprobe.prompts.template import QUESTIONS, Turn, chat_affixes
from headprobe.tasks import TASKS
from tests._support.chat_templates import NEEDLE, ask, real, tokenizer_with

# What the assistant's turn opens with: where an answer is generated, and where a text is written.
HEADERS = {
    "llama-3.1": ("<|start_header_id|>assistant<|end_header_id|>\n\n", ""),
    "qwen-2.5": ("<|im_start|>assistant\n", ""),
    "qwen-3": ("<|im_start|>assistant\n<think>\n\n</think>\n\n", ""),
    "gemma-3": ("<start_of_turn>model\n", ""),
    "mistral": ("[/INST]", " "),
    "phi-4": ("<|im_start|>assistant<|im_sep|>", ""),
    "gpt-oss": ("<|start|>assistant<|channel|>final<|message|>", ""),
    "glm-4.5": ("<|assistant|>\n<think></think>", "\n"),
}
every_template = pytest.mark.parametrize("name", HEADERS)


@every_template
def test_the_prompt_ends_in_header_and_prefix_and_is_watched_from_its_last_token(
    name: str,
) -> None:
    case, prompt = ask(real(name), "prefix")
    header, space = HEADERS[name]
    assert prompt.endswith(f"{header}{space}Answer:")
    assert prompt.count("Answer:") == 1
    assert TASKS["r2"].probe.first_query(case) == case.length - 1
    assert real(name).decode([case.input_ids[case.length - 1]]) == ":"
    assert real(name).decode(list(case.answer_ids)) == " newts"


@every_template
def test_in_a_chat_the_users_turn_ends_with_the_prefix_and_the_answer_begins_the_next(
    name: str,
) -> None:
    case, prompt = ask(real(name), "chat")
    header, _ = HEADERS[name]
    asked, _, opened = prompt.partition("Question: What does Ben keep?\nAnswer:")
    assert opened.endswith(header)
    assert "Ben keeps newts." in asked
    assert real(name).decode(list(case.answer_ids)) == "newts"


@every_template
def test_worked_examples_are_turns_of_their_own(name: str) -> None:
    _, prompt = ask(real(name), "shots")
    header, space = HEADERS[name]
    assert prompt.endswith(f"{header}{space}Answer:")
    asked = [prompt.index(f"What does {who} sell?") for who in ("Cleo", "Dov")]
    answered = [prompt.index(f"Answer: {goods}") for goods in ("ropes", "lamps")]
    context = prompt.index("Rain fell.")
    assert asked[0] < answered[0] < asked[1] < answered[1] < context


@every_template
def test_a_template_writes_what_it_writes_around_the_whole_text(name: str) -> None:
    tokenizer = real(name)
    _, prompt = ask(tokenizer, "chat")
    start, end = prompt.index(" Rain fell."), prompt.index("\nAnswer:") + len("\nAnswer:")
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt[start:end].strip()}],
        chat_template=("{% macro strftime_now(f) %}2024-07-26{% endmacro %}" * (name == "gpt-oss"))
        + tokenizer.chat_template,
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
    )
    opened = "<|channel|>final<|message|>" if name == "gpt-oss" else ""
    assert prompt.replace(" Rain fell.", "Rain fell.", 1) == rendered + opened


def test_thinking_is_switched_off_where_a_template_says_so_to_the_user() -> None:
    _, prompt = ask(real("glm-4.5"), "prefix")
    assert f"{QUESTIONS['english'].format(question=NEEDLE.question)}/nothink<|assistant|>" in prompt


OPENED = {
    "<think>\n": "<think>\n\n</think>\n\n",
    "<think>": "<think>\n</think>\n\n",
    "<thought>\n": "<thought>\n\n</thought>\n\n",
    "<seed:think>\n": "<seed:think>\n\n</seed:think>\n\n",
    "[THINK]": "[THINK]\n[/THINK]\n\n",
    "<|start|>assistant": "<|start|>assistant<|channel|>final<|message|>",
}
TURN = "{{ messages[0].content }}|"


@pytest.mark.parametrize("opened", OPENED)
def test_a_thinking_block_that_a_template_opens_is_closed(opened: str) -> None:
    affixes = chat_affixes(tokenizer_with(f"{TURN}{{{{ {opened!r} }}}}"))
    assert affixes.after == affixes.after_to_prefix == f"|{OPENED[opened]}"


def test_a_block_that_opens_every_assistants_turn_is_closed() -> None:
    template = (
        "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}<think>{% endif %}"
        "{{ m.content }};{% endfor %}{% if add_generation_prompt %}assistant:<think>{% endif %}"
    )
    affixes = chat_affixes(tokenizer_with(template))
    assert affixes.after_to_prefix == ";assistant:<think>\n</think>\n\n"


ODD = {
    "content as a list of parts": (
        "{% for m in messages %}[{{ m.role }}]{% for part in m.content %}{{ part.text }}"
        "{% endfor %}{% endfor %}[assistant]",
        ("[user]", "[assistant]"),
    ),
    "a needed system message": (
        "{% if messages[0].role != 'system' %}{{ raise_exception('system first') }}{% endif %}"
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]",
        ("[system]You are a helpful assistant.[user]", "[assistant]"),
    ),
    "names, none of them default": (
        {"tool": "[tool]{{ messages[-1].content }}[go]", "rag": "[rag]"},
        ("[tool]", "[go]"),
    ),
    "a default among names": (
        {"tool": "[tool]", "default": "[user]{{ messages[-1].content }}[go]"},
        ("[user]", "[go]"),
    ),
    "white space stripped": (
        "{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}",
        ("[user] ", "\n[assistant]"),
    ),
    "no closing line break": ("[user]{{ messages[0].content }}", ("[user]", "")),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_templates_are_rendered(case: str) -> None:
    template, (before, after) = ODD[case]
    affixes = chat_affixes(tokenizer_with(template))
    assert (affixes.before, affixes.after) == (before, after)


def test_a_template_that_strips_what_it_writes_is_cut_before_the_answer() -> None:
    affixes = chat_affixes(tokenizer_with(ODD["white space stripped"][0]))
    assert affixes.after_to_prefix == "\n[assistant] "


def test_a_template_without_generation_prompt_opens_the_turn_as_it_writes_one() -> None:
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    affixes = chat_affixes(tokenizer_with(template))
    assert (affixes.after, affixes.after_to_prefix) == ("[assistant]", "[assistant]")


def test_a_text_that_a_template_writes_twice_stands_at_its_last_place() -> None:
    template = "[task]{{ messages[0].content }}[user]{{ messages[0].content }}[go]"
    with pytest.warns(HeadprobeWarning, match="writes the user's text twice"):
        affixes = chat_affixes(tokenizer_with(template))
    assert (affixes.before, affixes.after) == ("[task][user]", "[go]")


def test_earlier_turns_stand_before_the_text() -> None:
    affixes = chat_affixes(real("phi-4"), turns=[Turn(asked="How?", answered="So.")])
    assert affixes.before == (
        "<|im_start|>user<|im_sep|>How?<|im_end|><|im_start|>assistant<|im_sep|>So.<|im_end|>"
        "<|im_start|>user<|im_sep|>"
    )


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{{ raise_exception('no\nroles') }}", "chat template: TemplateError: no; give another"),
        ("{% if %}", "chat template: TemplateSyntaxError: Expected an expression"),
        ("{{ 1 // 0 }}", "chat template: ZeroDivisionError"),
        ("{{ messages[7].content.x }}", "chat template: UndefinedError"),
        ("{% include 'other' %}", "chat template: TypeError: no loader for this environment"),
        ("{% import 'other' as other %}", "chat template: TypeError: no loader"),
        ("{{ {}['x'].y }}", "chat template: UndefinedError"),
        ("<|im_start|>assistant", "drops the user's text; give another"),
    ],
)
def test_a_template_that_cannot_be_used_is_one_line_that_says_what_to_do(
    template: str, problem: str
) -> None:
    with pytest.raises(UsageError, match=problem) as error:
        chat_affixes(tokenizer_with(template))
    assert "\n" not in str(error.value)
    assert "`chat_template`" in str(error.value)

"""Write the question after a context, and render a chat template around both.

The English instruction is HeadKV's (Fu et al., arXiv 2410.19258); the nano model is trained on it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from headprobe.errors import HeadprobeError, HeadprobeWarning, UsageError
from headprobe.inputs.fields import LONGEST_TEXT
from headprobe.models.reading import reading
from headprobe.prompts.limits import limited
from headprobe.prompts.needles import Language

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUESTIONS: dict[Language, str] = {
    "english": "\nBased on the content of the book, Question: {question}",
    "chinese": "\n根据上文内容回答问题。问题：{question}",  # noqa: RUF001
}
ANSWER_PREFIXES: dict[Language, str] = {"english": "Answer:", "chinese": "答案："}  # noqa: RUF001
INSTRUCTION = f"{QUESTIONS['english']}\n{ANSWER_PREFIXES['english']}"
NO_QUESTION = "N/A"
_PLACE = "{question}"

_CONTEXT, _ANSWER = "CONTEXT-STANDS-HERE", "ANSWER-STANDS-HERE"
_ADVICE = "give another as `chat_template`, or none"
# What rendering a template may take: those of models take milliseconds.
_SECONDS, _BYTES = 2.0, 2**30
_SYSTEM = "You are a helpful assistant."
# Template variables that switch thinking off, the first in Qwen 3, GLM 4.5 and SmolLM3, the second
# in DeepSeek V3.1 and Granite, the third in Seed-OSS.
_WITHOUT_THINKING: dict[str, Any] = {
    "enable_thinking": False,
    "thinking": False,
    "thinking_budget": 0,
}
# Text with which an assistant's turn may still open, and text that makes the model answer at once.
_NO_THINKING_SUFFIX = {
    "<think>": "\n</think>\n\n",
    "<thought>": "\n</thought>\n\n",
    "<seed:think>": "\n</seed:think>\n\n",
    "[THINK]": "\n[/THINK]\n\n",
    "<|start|>assistant": "<|channel|>final<|message|>",
}
# Templates that name today's date are to give the same prompts on every day. The line break is one
# that transformers drops after a block.
_FIXED_DATE_MACRO = """{% macro strftime_now(format) %}
{{- "2024-07-26" if format == "%Y-%m-%d" else "26 Jul 2024" -}}
{% endmacro %}
"""


def fill_in(instruction: str, question: str) -> str:
    """Put a question into an instruction, whose answer prefix may hold braces of its own."""
    return instruction.replace(_PLACE, question, 1)


@dataclass(frozen=True, kw_only=True)
class Turn:
    """An earlier turn of a chat: a context with its question, and the answer."""

    asked: str
    answered: str


@dataclass(frozen=True, kw_only=True)
class ChatAffixes:
    """The text that a chat template puts before and after the user's text.

    ``after`` ends where the assistant's turn begins, thinking switched off or closed;
    ``after_to_prefix`` ends where the template would write the assistant's text, which may be a
    space or a line break later.
    """

    before: str
    after: str
    after_to_prefix: str


def chat_affixes(tokenizer: PreTrainedTokenizerBase, *, turns: Sequence[Turn] = ()) -> ChatAffixes:
    """Render a tokenizer's chat template around a user's text that follows some earlier turns.

    Templates demand different forms, tried in turn: the text as a string, or as a list of parts,
    each without and with a system message. If a template writes the user's text twice, the last
    copy counts.

    Raises:
        UsageError: the template cannot be used, or drops the text.
    """
    template = _template_of(tokenizer)
    problem: HeadprobeError | None = None
    for system in ([], [("system", _SYSTEM)]):
        for in_parts in (False, True):
            spoken = [*system, *_spoken(turns), ("user", _CONTEXT)]
            try:
                rendered = _render(tokenizer, template, spoken, in_parts=in_parts)
            except HeadprobeError as error:
                problem = problem or error
                if isinstance(error.__cause__, TimeoutError | MemoryError):
                    raise UsageError(error.message) from error
                continue
            if _CONTEXT in rendered:
                written = _written(tokenizer, template, spoken, in_parts=in_parts)
                return _affixes(rendered, written)
    if problem is None:
        raise UsageError(f"the model's chat template drops the user's text; {_ADVICE}")
    raise UsageError(problem.message) from problem


def _template_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the chat template; of several named ones the default one, else the first."""
    template: Any = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default") or next(iter(template.values()))
    return (_FIXED_DATE_MACRO if "strftime_now" in template else "") + str(template)


def _spoken(turns: Sequence[Turn]) -> list[tuple[str, str]]:
    pairs = ((("user", turn.asked), ("assistant", turn.answered)) for turn in turns)
    return [one for pair in pairs for one in pair]


def _render(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    spoken: Sequence[tuple[str, str]],
    *,
    in_parts: bool,
    opens_answer: bool = True,
) -> str:
    messages: Any = [
        {"role": role, "content": [{"type": "text", "text": text}] if in_parts else text}
        for role, text in spoken
    ]
    with reading("the model's chat template", _ADVICE):
        _refuse_powers(template)
        with limited(seconds=_SECONDS, more_bytes=_BYTES):
            rendered: Any = tokenizer.apply_chat_template(
                messages,
                chat_template=template,
                tokenize=False,
                add_generation_prompt=opens_answer,
                **_WITHOUT_THINKING,
            )
        if len(rendered) > LONGEST_TEXT:
            raise ValueError(f"it writes {len(rendered):,} characters around a question")
        return str(rendered)


def _refuse_powers(template: str) -> None:
    """Refuse powers of numbers: one such as 9**9**9 cannot be stopped once it is begun."""
    from jinja2 import Environment

    if any((kind, sign) == ("operator", "**") for _, kind, sign in Environment().lex(template)):
        raise ValueError("it raises a number to a power")


def _written(
    tokenizer: PreTrainedTokenizerBase,
    template: str,
    spoken: Sequence[tuple[str, str]],
    *,
    in_parts: bool,
) -> str | None:
    """Render the chat up to the start of an answer in it; ``None`` if the template refuses."""
    answered = [*spoken, ("assistant", _ANSWER)]
    try:
        rendered = _render(tokenizer, template, answered, in_parts=in_parts, opens_answer=False)
    except HeadprobeError:
        return None
    return rendered.partition(_ANSWER)[0] if _ANSWER in rendered else None


def _affixes(rendered: str, written: str | None) -> ChatAffixes:
    if rendered.count(_CONTEXT) > 1:
        warnings.warn(
            "the model's chat template writes the user's text twice; prompts have it once",
            HeadprobeWarning,
            stacklevel=3,
        )
    before, _, after = rendered.rpartition(_CONTEXT)
    # The text before an answer inside a chat is more complete than the text that opens an answer:
    # gpt-oss' channel, a closed block of thinking, Llama 2's space.
    own = written.rpartition(_CONTEXT)[2] if written is not None else ""
    to_prefix = own if own.startswith(after) else after
    open_end = to_prefix.rstrip()
    to_prefix += next((s for end, s in _NO_THINKING_SUFFIX.items() if open_end.endswith(end)), "")
    says_more = bool(to_prefix[len(after) :].strip())
    return ChatAffixes(
        before=before.replace(_CONTEXT, ""),
        after=to_prefix if says_more else after,
        after_to_prefix=to_prefix,
    )

"""Decide what stands before the context and after the question: the prompt styles.

| style | the prompt |
|---|---|
| raw | no chat template: the question and the answer prefix stand at its end (HeadKV's) |
| chat | the question and the answer prefix stand in the user's turn |
| prefix | the question stands in the user's turn, the assistant's turn opens with the prefix |
| shots | as prefix, after two worked examples in turns of their own |

Without a chat template, prefix is raw, and shots writes its examples as raw text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from headprobe.errors import UsageError
from headprobe.files import json_digest
from headprobe.prompts.needles import Needle
from headprobe.prompts.template import ANSWER_PREFIX, QUESTION, ChatAffixes, Turn, chat_affixes
from headprobe.prompts.tokenize import PieceTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PromptStyle = Literal["raw", "chat", "prefix", "shots"]
AskedStyle = Literal["auto", "raw", "chat", "prefix", "shots"]
TRIED: tuple[PromptStyle, ...] = ("chat", "prefix", "shots", "raw")
"""The styles that auto tries on a chat model, the simplest first; raw is the least like a chat."""

SHOTS = 2
_NAME = re.compile(r"\b[A-Z]\w+")
_NOT_NAMES = frozenset(
    {
        *("A", "An", "And", "At", "Both", "Doctor", "Each", "Every", "For", "From", "He", "Her"),
        *("His", "How", "In", "Inside", "It", "Its", "On", "One", "Over", "She", "The", "Their"),
        *("They", "To", "Two", "Under", "What", "When", "Where", "Which", "Who", "Whose", "Why"),
    }
)


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """How the user wants questions to be put.

    ``style`` is auto as long as it is not decided; ``answer_prefix`` is what an answer is written
    after; ``chat_template`` is the text of another chat template than the tokenizer's, "" for none.
    """

    style: AskedStyle = "auto"
    answer_prefix: str = ANSWER_PREFIX
    chat_template: str | None = None

    def __post_init__(self) -> None:
        if not self.answer_prefix.strip():
            raise UsageError(
                "expected a text such as Answer:", option="answer_prefix", value=self.answer_prefix
            )

    def apply_template(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Give a tokenizer the chat template that was asked for in place of its own.

        Raises:
            UsageError: the style needs a template, and there is none.
        """
        if self.chat_template is not None:
            tokenizer.chat_template = self.chat_template or None
        if self.style == "chat" and not tokenizer.chat_template:
            raise UsageError(
                "the model has no chat template: give `chat_template` a file",
                option="prompt",
                value="chat",
            )


def read_chat_template(choice: str | None) -> str | None:
    """Read the text of a chat template from a file; "" for the choice ``none``.

    Raises:
        UsageError: the file cannot be read.
    """
    if choice is None or choice == "none":
        return None if choice is None else ""
    try:
        return Path(choice).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            "cannot read it; expected a Jinja file or none", option="chat_template", value=choice
        ) from error


@dataclass(frozen=True, kw_only=True)
class PromptDecision:
    """The style asked for, the one that is used, and what each style that was tried passed.

    ``used`` is None as long as it is not decided; ``passed`` are parts, 0 to 1, of ``prompts``
    short prompts a style.
    """

    asked: AskedStyle
    used: PromptStyle | None
    passed: Mapping[str, float] = field(default_factory=dict)
    prompts: int = 0

    @classmethod
    def known(
        cls,
        options: PromptOptions,
        tokenizer: PreTrainedTokenizerBase,
        plans: Sequence[Mapping[str, Any]] = (),
    ) -> PromptDecision:
        """What can be said before anything is tried.

        auto is raw for a model without a chat template, else what the first of earlier ``plans``
        with the same options says.
        """
        if options.style != "auto":
            return cls(asked=options.style, used=options.style)
        if not tokenizer.chat_template:
            return cls(asked="auto", used="raw")
        given = describe_options(options, tokenizer)
        for plan in plans:
            earlier = cls.in_record(plan)
            if earlier and earlier.used in TRIED and given.items() <= plan.items():
                return replace(earlier, asked="auto")
        return cls(asked="auto", used=None)

    @classmethod
    def in_record(cls, plan: Mapping[str, Any]) -> PromptDecision | None:
        """What the plan of a run says; None where it asks nothing, or is from before."""
        if "prompt_style" not in plan:
            return None
        tried = plan.get("prompt_tried") or {"passed": {}, "prompts": 0}
        return cls(asked=plan.get("prompt", "auto"), used=plan["prompt_style"], **tried)

    def settle(self, options: PromptOptions) -> PromptOptions:
        """The options with the style that is used, if that is decided."""
        return replace(options, style=self.used or "auto")

    def in_plan(self) -> dict[str, Any]:
        """What a plan says of it, beside the style that is used."""
        tried = {"passed": dict(self.passed), "prompts": self.prompts} if self.passed else None
        return {"prompt": self.asked, "prompt_tried": tried}

    def to_json(self) -> dict[str, Any]:
        """What ``run.json`` says of it."""
        return {
            "asked": self.asked,
            "used": self.used,
            "passed": dict(self.passed),
            "prompts": self.prompts,
        }

    def describe(self) -> str:
        """One phrase: "shots (of 8 short prompts passed: chat 25 %, shots 75 %)"."""
        if self.used is None:
            return f"decided when the run starts, of {', '.join(TRIED)}, on a few short prompts"
        if not self.passed:
            return self.used
        rates = ", ".join(f"{style} {100 * rate:.0f} %" for style, rate in self.passed.items())
        return f"{self.used} (of {self.prompts} short prompts passed: {rates})"


def describe_options(
    options: PromptOptions, tokenizer: PreTrainedTokenizerBase
) -> dict[str, str | None]:
    """What a plan says of the options beside the style."""
    template = tokenizer.chat_template
    return {
        "answer_prefix": options.answer_prefix,
        "chat_template": json_digest(template) if template else None,
    }


@dataclass(frozen=True, kw_only=True)
class PromptFrame:
    """Everything of a prompt but context and question.

    ``head`` are the tokens before the context; ``instruction`` is the text after it with
    ``{question}`` in it; ``tail`` are the tokens after that. The answer follows ``opening``, the
    text that the prompt ends with, or begins a turn where that is empty.
    """

    head: tuple[int, ...]
    instruction: str
    tail: tuple[int, ...]
    opening: str

    def answer_ids(self, answer: str, pieces: PieceTokenizer) -> list[int]:
        """The tokens of an answer as the model would write it after the prompt."""
        if not self.opening:
            return pieces.encode(answer)
        answered = append_answer(self.opening, answer)
        before, whole = pieces.encode(self.opening), pieces.encode(answered)
        if whole[: len(before)] == before:
            return whole[len(before) :]
        return pieces.encode(answered.removeprefix(self.opening))


def append_answer(prefix: str, answer: str) -> str:
    """An answer after its prefix: a space between, except where the prefix ends full-width."""
    return prefix + ("" if unicodedata.east_asian_width(prefix[-1]) in "WF" else " ") + answer


class PromptWriter:
    """Frames prompts in one style.

    Args:
        tokenizer: the model's, with the chat template that is to be used.
        style: one of the styles; left out, chat with a template and raw without.
        answer_prefix: what answers are written after.
        examples: needles to make worked examples of, for shots.

    Raises:
        UsageError: the chat template cannot be used.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        style: PromptStyle | None = None,
        answer_prefix: str = ANSWER_PREFIX,
        examples: Sequence[Needle] = (),
    ) -> None:
        self.pieces = PieceTokenizer(tokenizer)
        self.style: PromptStyle = style or ("chat" if tokenizer.chat_template else "raw")
        self._tokenizer = tokenizer
        self._prefix = answer_prefix.strip()
        self._examples = examples
        self._frames: dict[tuple[Needle, ...], PromptFrame] = {}

    def chat_affixes(self, needle: Needle | None = None) -> PromptFrame:
        """What stands around a needle's context; worked examples have no name of it.

        Raises:
            UsageError: the chat template cannot be used, or no example is left.
        """
        shots = self._shots(needle) if self.style == "shots" else ()
        if shots not in self._frames:
            self._frames[shots] = self._make(shots)
        return self._frames[shots]

    def _shots(self, needle: Needle | None) -> tuple[Needle, ...]:
        free = [one for one in self._examples if needle is None or not shares_words(one, needle)]
        if not free:
            raise UsageError("no worked example without the needle's words; try `prompt=prefix`")
        return tuple(free[:SHOTS])

    def _make(self, shots: tuple[Needle, ...]) -> PromptFrame:
        encode, at_end = self.pieces.encode, f"{QUESTION}\n{self._prefix}"
        if self.style == "raw" or not self._tokenizer.chat_template:
            worked = (
                f"{one.text}{append_answer(at_end.format(question=one.question), one.answer)}\n\n"
                for one in shots
            )
            return PromptFrame(
                head=(*self.pieces.start(), *encode("".join(worked))),
                instruction=at_end,
                tail=(),
                opening=self._prefix,
            )
        affixes = self._affixes(shots)
        in_turn = self.style == "chat"
        after = affixes.after if in_turn else affixes.after_to_prefix + self._prefix
        return PromptFrame(
            head=tuple(self.pieces.encode_template(affixes.before)),
            instruction=at_end if in_turn else QUESTION,
            tail=tuple(self.pieces.encode_template(after, inside=True)),
            opening="" if in_turn else self._prefix,
        )

    def _affixes(self, shots: tuple[Needle, ...]) -> ChatAffixes:
        turns = [
            Turn(
                asked=one.text + QUESTION.format(question=one.question),
                answered=append_answer(self._prefix, one.answer),
            )
            for one in shots
        ]
        return chat_affixes(self._tokenizer, turns=turns)


def shares_words(example: Needle, needle: Needle) -> bool:
    """Whether a worked example has a name or an answer of a needle, or the reverse."""
    one, other = (f"{n.text} {n.question}" for n in (example, needle))
    names = set(_NAME.findall(one)) & set(_NAME.findall(other)) - _NOT_NAMES
    told = [
        *((answer, other) for answer in (example.answer, example.wrong_answer) if answer),
        *((answer, one) for answer in (needle.answer, needle.wrong_answer) if answer),
    ]
    return bool(names) or any(answer.casefold() in text.casefold() for answer, text in told)

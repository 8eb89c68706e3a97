"""Prompt styles: how a question, its answer prefix and a chat template frame a context.

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
from headprobe.prompts.needles import Language, Needle, language_of
from headprobe.prompts.template import ANSWER_PREFIXES, QUESTIONS, Turn, chat_affixes, fill_in
from headprobe.prompts.tokenize import PieceTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PromptStyle = Literal["raw", "chat", "prefix", "shots"]
AskedStyle = Literal["auto", "raw", "chat", "prefix", "shots"]
TRIED: tuple[PromptStyle, ...] = ("chat", "prefix", "shots", "raw")
"""The styles that auto tries on a chat model, simplest first; raw is the least like a chat."""

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
    """The user's options for the form of prompts.

    ``style`` is auto as long as it is not decided; ``answer_prefix`` is the text that the model's
    answer continues, ``None`` for that of the question's language; ``chat_template`` is the text of
    a chat template to use instead of the tokenizer's, "" for none.
    """

    style: AskedStyle = "auto"
    answer_prefix: str | None = None
    chat_template: str | None = None

    def __post_init__(self) -> None:
        if self.answer_prefix is not None and not self.answer_prefix.strip():
            raise UsageError(
                "expected a text such as Answer:", option="answer_prefix", value=self.answer_prefix
            )

    def apply_template(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Set the user's chat template in a tokenizer, if the user gave one.

        Raises:
            UsageError: the style needs a chat template, and there is none.
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
    """Read the text of a chat template from the file ``choice``; "" for the choice ``none``.

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
    """The style that the user asked for, the style in use, and the pass rates of a trial.

    ``used`` is None as long as it is not decided; ``passed`` are the fractions, 0 to 1, of
    ``prompts`` short prompts that each tried style passed.
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
        """Decide on a style without a trial where that is possible.

        Style auto means raw for a model without a chat template, else the style of the first of
        the earlier ``plans`` with the same options; if there is none, the style stays undecided.
        """
        if options.style != "auto":
            return cls(asked=options.style, used=options.style)
        if not tokenizer.chat_template:
            return cls(asked="auto", used="raw")
        given = describe_options(options, tokenizer)
        if options.answer_prefix is None:
            del given["answer_prefix"]
        for plan in plans:
            earlier = cls.in_record(plan)
            if earlier and earlier.used in TRIED and given.items() <= plan.items():
                return replace(earlier, asked="auto")
        return cls(asked="auto", used=None)

    @classmethod
    def in_record(cls, plan: Mapping[str, Any]) -> PromptDecision | None:
        """Read the decision in a run's plan; ``None`` where the run asks nothing or is too old."""
        if "prompt_style" not in plan:
            return None
        tried = plan.get("prompt_tried") or {"passed": {}, "prompts": 0}
        return cls(asked=plan.get("prompt", "auto"), used=plan["prompt_style"], **tried)

    def settle(self, options: PromptOptions) -> PromptOptions:
        """Return the options with the style in use, if it is decided."""
        return replace(options, style=self.used or "auto")

    def in_plan(self) -> dict[str, Any]:
        """Return the fields that a plan records of the decision, besides the style in use."""
        tried = {"passed": dict(self.passed), "prompts": self.prompts} if self.passed else None
        return {"prompt": self.asked, "prompt_tried": tried}

    def to_json(self) -> dict[str, Any]:
        """Return the fields that ``run.json`` records of the decision."""
        return {
            "asked": self.asked,
            "used": self.used,
            "passed": dict(self.passed),
            "prompts": self.prompts,
        }

    def describe(self) -> str:
        """Describe the decision: "shots (of 8 short prompts passed: chat 25 %, shots 75 %)"."""
        if self.used is None:
            return f"decided when the run starts, of {', '.join(TRIED)}, on a few short prompts"
        if not self.passed:
            return self.used
        rates = ", ".join(f"{style} {100 * rate:.0f} %" for style, rate in self.passed.items())
        return f"{self.used} (of {self.prompts} short prompts passed: {rates})"


def describe_options(
    options: PromptOptions, tokenizer: PreTrainedTokenizerBase, *, language: Language = "english"
) -> dict[str, str | None]:
    """Return the fields that a plan records of the options, besides the style."""
    template = tokenizer.chat_template
    return {
        "answer_prefix": options.answer_prefix or ANSWER_PREFIXES[language],
        "chat_template": json_digest(template) if template else None,
    }


@dataclass(frozen=True, kw_only=True)
class PromptFrame:
    """All parts of a prompt except the context and the question.

    ``head`` are the tokens before the context; ``instruction`` is the text after it with
    ``{question}`` in it; ``tail`` are the tokens after the instruction. The answer follows
    ``opening``, the text that the prompt ends with; if this is empty, the answer begins a turn.
    """

    head: tuple[int, ...]
    instruction: str
    tail: tuple[int, ...]
    opening: str

    def answer_ids(self, answer: str, pieces: PieceTokenizer) -> list[int]:
        """Tokenize an answer as the model would write it after the prompt."""
        if not self.opening:
            return pieces.encode(answer)
        answered = append_answer(self.opening, answer)
        before, whole = pieces.encode(self.opening), pieces.encode(answered)
        if whole[: len(before)] == before:
            return whole[len(before) :]
        return pieces.encode(answered.removeprefix(self.opening))


def append_answer(prefix: str, answer: str) -> str:
    """Join a prefix and an answer, with a space unless the prefix ends full-width."""
    return prefix + ("" if unicodedata.east_asian_width(prefix[-1]) in "WF" else " ") + answer


class PromptWriter:
    """Frames prompts in one style.

    Args:
        tokenizer: the model's tokenizer, with the chat template to use.
        style: one of the styles; left out, chat with a template and raw without.
        answer_prefix: the text that answers continue, by default that of the question's language.
        examples: needles to make worked examples of, for style shots.

    Raises:
        UsageError: the chat template cannot be used.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        style: PromptStyle | None = None,
        answer_prefix: str | None = None,
        examples: Sequence[Needle] = (),
    ) -> None:
        self.pieces = PieceTokenizer(tokenizer)
        self.style: PromptStyle = style or ("chat" if tokenizer.chat_template else "raw")
        self.tokenizer = tokenizer
        self._prefix = answer_prefix
        self._examples = examples
        self._frames: dict[tuple[Language, tuple[Needle, ...]], PromptFrame] = {}

    def chat_affixes(
        self, needle: Needle | None = None, *, language: Language = "english"
    ) -> PromptFrame:
        """Return the parts of a prompt around a context, in the needle's language if there is one.

        Worked examples that share a name or an answer with the needle are left out.

        Raises:
            UsageError: the chat template cannot be used, or no example is left.
        """
        language = language_of(needle.text) if needle else language
        shots = self._shots(needle) if self.style == "shots" else ()
        if (language, shots) not in self._frames:
            self._frames[language, shots] = self._make(language, shots)
        return self._frames[language, shots]

    def _shots(self, needle: Needle | None) -> tuple[Needle, ...]:
        free = [one for one in self._examples if needle is None or not shares_words(one, needle)]
        if not free:
            raise UsageError("no worked example without the needle's words; try `prompt=prefix`")
        return tuple(free[:SHOTS])

    def _make(self, language: Language, shots: tuple[Needle, ...]) -> PromptFrame:
        prefix = (self._prefix or ANSWER_PREFIXES[language]).strip()
        encode, at_end = self.pieces.encode, f"{QUESTIONS[language]}\n{prefix}"
        if self.style == "raw" or not self.tokenizer.chat_template:
            worked = (
                f"{one.text}{append_answer(fill_in(at_end, one.question), one.answer)}\n\n"
                for one in shots
            )
            return PromptFrame(
                head=(*self.pieces.start(), *encode("".join(worked))),
                instruction=at_end,
                tail=(),
                opening=prefix,
            )
        turns = [
            Turn(
                asked=one.text + fill_in(QUESTIONS[language], one.question),
                answered=append_answer(prefix, one.answer),
            )
            for one in shots
        ]
        affixes = chat_affixes(self.tokenizer, turns=turns)
        in_turn = self.style == "chat"
        after = affixes.after if in_turn else affixes.after_to_prefix + prefix
        return PromptFrame(
            head=tuple(self.pieces.encode_template(affixes.before)),
            instruction=at_end if in_turn else QUESTIONS[language],
            tail=tuple(self.pieces.encode_template(after, inside=True)),
            opening="" if in_turn else prefix,
        )


def shares_words(example: Needle, needle: Needle) -> bool:
    """Tell whether a worked example and a needle share a name, or one holds the other's answer."""
    one, other = (f"{n.text} {n.question}" for n in (example, needle))
    names = set(_NAME.findall(one)) & set(_NAME.findall(other)) - _NOT_NAMES
    told = [
        *((answer, other) for answer in (example.answer, example.wrong_answer) if answer),
        *((answer, one) for answer in (needle.answer, needle.wrong_answer) if answer),
    ]
    return bool(names) or any(answer.casefold() in text.casefold() for answer, text in told)

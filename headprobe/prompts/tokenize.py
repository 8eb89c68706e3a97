"""The tokens of a prompt's pieces, and what a tokenizer puts around a prompt."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from headprobe.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_MARK = "CONTEXT-STANDS-HERE"
_WORD, _BREAK = "a", "\n"
# Templates that name today's date are to give the same prompts on every day. The line break is one
# that transformers drops behind a block.
_ONE_DAY = """{% macro strftime_now(format) %}
{{- "2024-07-26" if format == "%Y-%m-%d" else "26 Jul 2024" -}}
{% endmacro %}
"""
# What the templates of models that think first end with, and what makes them answer at once.
_AT_ONCE = {
    "<think>": "\n</think>\n\n",
    "<|start|>assistant": "<|channel|>final<|message|>",
}


class PieceTokenizer:
    """Tokenizes the pieces of a prompt one by one, as they read in the middle of a text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        special = {*tokenizer.all_special_tokens, *(str(token) for token in added if token.special)}
        self._inside_special = _behind_first_letter(special)

    def encode(self, text: str) -> list[int]:
        """The tokens of ``text`` as it reads in the middle of a text; never a special token."""
        # What spells a special token is cut in two. To ask the tokenizer to split it would not do:
        # some vocabularies hold the spelling as a plain piece too.
        parts = self._inside_special.split(text)
        return [token for part in parts for token in self._inside(part)]

    def _inside(self, text: str) -> list[int]:
        # Behind an anchor that is cut off again: tokenizers treat the start of a text unlike its
        # middle. A word stands behind a line break, since it would merge with another word.
        anchor = _BREAK if text[:1].isalnum() else _WORD
        head, ids = self._plain(anchor), self._plain(anchor + text)
        return ids[len(head) :] if ids[: len(head)] == head else self._plain(text)

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def frame(self) -> tuple[list[int], list[int], bool]:
        """Tokens before the context, tokens behind the question, and whether it is a chat.

        A chat model gets its chat template around context and question, any other model what its
        tokenizer puts at the start of a text.

        Raises:
            UsageError: the chat template does not work, or drops the text.
        """
        if self._tokenizer.chat_template:
            before, found, behind = self._templated(_MARK).partition(_MARK)
            if not found:
                raise UsageError("the model's chat template drops the user's text")
            rest = (more for end, more in _AT_ONCE.items() if behind.rstrip().endswith(end))
            return self._plain(before), self._inside(behind + next(rest, "")), True
        whole = self._tokenizer(_WORD)["input_ids"]
        return whole[: whole.index(self._plain(_WORD)[0])], [], False

    def _templated(self, text: str) -> str:
        """A text as a user's turn."""
        from jinja2 import TemplateError

        try:
            template = self._tokenizer.get_chat_template()
            # Models that think first would spend the watched steps on it.
            return str(
                self._tokenizer.apply_chat_template(
                    [{"role": "user", "content": text}],
                    chat_template=(_ONE_DAY if "strftime_now" in template else "") + template,
                    tokenize=False,
                    add_generation_prompt=True,
                    enable_thinking=False,
                )
            )
        except (ValueError, TemplateError) as error:
            problem, *_ = str(error).split("\n")
            raise UsageError(f"the model's chat template cannot be used: {problem}") from error


def _behind_first_letter(spellings: Iterable[str]) -> re.Pattern[str]:
    """Matches the place behind the first letter of each spelling."""
    rests = defaultdict(list)
    for spelling in spellings:
        if len(spelling) > 1:
            rests[spelling[0]].append(re.escape(spelling[1:]))
    places = [f"(?<={re.escape(first)})(?={'|'.join(rest)})" for first, rest in rests.items()]
    return re.compile("|".join(places) or "(?!)")

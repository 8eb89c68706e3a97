"""Tokenize a prompt piece by piece, so that each piece's place in tokens is known."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING

from headprobe.models.reading import reading

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


_WORD, _BREAK = "a", "\n"


class PieceTokenizer:
    """Tokenizes the pieces of a prompt one by one, as they read in the middle of a text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        special = {*tokenizer.all_special_tokens, *(str(token) for token in added if token.special)}
        self._inside_special = _after_first_letter(special)
        self._anchors: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Tokenize ``text`` as in the middle of a text, without ever making a special token."""
        # A special token's spelling is cut in two. Asking the tokenizer to split it is not enough:
        # some vocabularies hold the spelling as a plain piece too.
        parts = self._inside_special.split(text)
        return [token for part in parts for token in self._inside(part)]

    def _inside(self, text: str) -> list[int]:
        # The text is tokenized after an anchor that is cut off again: tokenizers treat the start of
        # a text unlike its middle. A word gets a line break as anchor: it would merge with a word.
        anchor = _BREAK if text[:1].isalnum() else _WORD
        if anchor not in self._anchors:
            self._anchors[anchor] = self._plain(anchor)
        head, ids = self._anchors[anchor], self._plain(anchor + text)
        return ids[len(head) :] if ids[: len(head)] == head else self._plain(text)

    def _plain(self, text: str) -> list[int]:
        advice = "put the one there that the model came with"
        with reading("a text with the tokenizer", advice):
            # Not verbose: texts longer than the model's max context are cropped later.
            ids: list[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)[
                "input_ids"
            ]
        return ids

    def encode_template(self, text: str, *, inside: bool = False) -> list[int]:
        """Tokenize text that a chat template wrote, special tokens included.

        ``inside`` says that ``text`` stands in the middle of a text, not at its start.
        """
        return self._inside(text) if inside else self._plain(text)

    def start(self) -> list[int]:
        """Return the tokens that the tokenizer puts before a text, such as BOS."""
        whole: list[int] = self._tokenizer(_WORD)["input_ids"]
        return whole[: whole.index(self._plain(_WORD)[0])]


def _after_first_letter(spellings: Iterable[str]) -> re.Pattern[str]:
    """Compile a pattern that matches the place after the first letter of each spelling."""
    rests = defaultdict(list)
    for spelling in spellings:
        if len(spelling) > 1:
            rests[spelling[0]].append(re.escape(spelling[1:]))
    places = [f"(?<={re.escape(first)})(?={'|'.join(rest)})" for first, rest in rests.items()]
    return re.compile("|".join(places) or "(?!)")

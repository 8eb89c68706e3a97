"""Turn the rows of a benchmark into prompts, in tokens, as its protocol has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from headprobe.evaluation.benchmarks.protocol import OWN_WORDS, Protocol, Style, Truncation
from headprobe.evaluation.benchmarks.rows import Row
from headprobe.prompts.template import ChatAffixes, chat_affixes
from headprobe.prompts.tokenize import PieceTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Prompt = tuple[tuple[int, ...], tuple[int, ...]]
"""The tokens up to the question, and those of the question and the opened answer.

There is one of each at least: where nothing stands after a context, its last token is read after
the compression, as a model has to read something to answer.
"""


class RowWriter:
    """Writes rows as prompts of one model.

    Args:
        tokenizer: the model's tokenizer, with the chat template to use.
        style: where the answer prefix stands, in the place of the protocol's style.

    Raises:
        UsageError: the chat template cannot be used.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, style: Style | None = None) -> None:
        self._pieces = PieceTokenizer(tokenizer)
        self._style = style
        self._affixes: ChatAffixes | None = None
        if tokenizer.chat_template and style != "raw":
            self._affixes = chat_affixes(tokenizer)

    def style_of(self, protocol: Protocol) -> Style:
        """Return the style in use: without a chat template, raw."""
        return "raw" if self._affixes is None else self._style or protocol.style

    def write(self, row: Row, protocol: Protocol = OWN_WORDS) -> Prompt:
        """Write a row as a prompt; without a protocol, the row is in its own words.

        Raises:
            ValueError: the context is a single token and nothing stands after it.
        """
        context, asked = self._tokens(row, protocol)
        if not asked:
            context, asked = context[:-1], context[-1:]
        if not context:
            raise ValueError("the context is a single token and nothing is asked about it")
        return context, asked

    def _tokens(self, row: Row, protocol: Protocol) -> Prompt:
        context, question, prefix = protocol.texts(row)
        encode, style = self._pieces.encode, self.style_of(protocol)
        if self._affixes is None or style == "raw":
            return (*self._pieces.start(), *encode(context)), tuple(encode(question + prefix))
        head = self._pieces.encode_template(self._affixes.before)
        if style == "chat":
            asked, after = question + prefix, self._affixes.after
        else:
            asked, after = question, self._affixes.after_to_prefix + prefix.lstrip()
        tail = self._pieces.encode_template(after, inside=True)
        return (*head, *encode(context)), (*encode(asked), *tail)


def shorten(prompt: Prompt, longest: int | None, truncation: Truncation) -> Prompt:
    """Cut a prompt to at most ``longest`` tokens; the question stays whole.

    Raises:
        ValueError: the question alone takes too many tokens.
    """
    context, question = prompt
    if longest is None or len(context) + len(question) <= longest:
        return prompt
    capacity = longest - len(question)
    if capacity < 1:
        raise ValueError(f"the question takes more than the model's {longest} tokens")
    first = {
        "middle": min(longest // 2, capacity),
        "middle of context": (capacity + 1) // 2,
        "end of context": capacity,
    }[truncation]
    return (*context[:first], *context[len(context) - (capacity - first) :]), question

"""The rules of greedy answers: the next token, where an answer ends, and its text.

Both decoders go by them: ``decoding`` verifies drafts on the branches of one KV cache, and the
``GreedyDecoder`` of compressed caches takes a step of many sequences at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from jaxtyping import Float, Int
from torch import Tensor

from headprobe.attention.finite import require_finite_logits

if TYPE_CHECKING:
    from headprobe.models.loading import LoadedModel


Stops = Literal["line", "end"]
"""The end of an answer: a line break after some text too, or an end-of-sequence token alone."""


class GreedyRules:
    """Choose a model's next tokens, and end its answers.

    An answer ends at an end-of-sequence token, at its most tokens, or at a line break after some
    text. It has one token at least (transformers' ``min_new_tokens=1``): small chat models often
    end the turn at once after an answer prefix, and answer where they may not. With stops ``end``,
    line breaks do not count, an answer may be empty, and its text is as it was written.
    """

    def __init__(self, loaded: LoadedModel, *, stops: Stops = "line") -> None:
        self._stops = stops
        self._tokenizer = loaded.tokenizer
        self._generation = loaded.model.generation_config

    @cached_property
    def _ends(self) -> set[int]:
        ends = self._generation.eos_token_id if self._generation is not None else None
        listed = ends if isinstance(ends, list) else [ends]
        return {end for end in (*listed, self._tokenizer.eos_token_id) if end is not None}

    def choose(
        self, logits: Float[Tensor, "row vocabulary"], *, first: Sequence[int]
    ) -> Int[Tensor, " row"]:
        """Return each row's most likely token; the rows ``first`` begin an answer.

        The logits of end-of-sequence tokens are overwritten in the rows that begin an answer of one
        token at least.

        Raises:
            NotFinite: the largest logit of a row is NaN or infinite.
        """
        require_finite_logits(logits)
        ends = [end for end in self._ends if end < logits.shape[-1]]
        for row in first if self._stops == "line" else ():
            logits[row, ends] = float("-inf")
        chosen: Tensor = logits.argmax(dim=-1)
        return chosen

    def is_end(self, generated: Sequence[int]) -> bool:
        """Tell whether the newest of the generated tokens ends the answer."""
        if generated[-1] in self._ends:
            return True
        if self._stops == "end" or "\n" not in self._tokenizer.decode([generated[-1]]):
            return False
        return "\n" in self.decode(generated).lstrip()

    def is_complete(self, generated: Sequence[int], *, max_new_tokens: int) -> bool:
        """Tell whether an answer needs no further token."""
        return len(generated) >= max_new_tokens or self.is_end(generated)

    def text(self, generated: Sequence[int]) -> str:
        """Return the text of an answer, without special tokens and white space around it.

        With stops ``end``, white space counts.
        """
        text = self.decode(generated)
        return text if self._stops == "end" else text.strip()

    def decode(self, generated: Sequence[int]) -> str:
        """Return the text of some tokens, without special tokens."""
        return str(self._tokenizer.decode(list(generated), skip_special_tokens=True))

"""Decide where a response ends."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from headprobe.models.loading import LoadedModel


class Stops:
    """Ends responses: at an end-of-sequence token, and at a line break after some text.

    A response has one token at least (transformers' ``min_new_tokens=1``): small chat models often
    end the turn at once after an answer prefix, and answer where they may not.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._tokenizer = loaded.tokenizer
        self._generation = loaded.model.generation_config

    @cached_property
    def _ends(self) -> set[int]:
        ends = self._generation.eos_token_id if self._generation is not None else None
        listed = ends if isinstance(ends, list) else [ends]
        return {end for end in (*listed, self._tokenizer.eos_token_id) if end is not None}

    def forbid_ends(self, logits: Float[Tensor, "sequence vocabulary"]) -> None:
        """Rule end-of-sequence tokens out as the first token of responses, in place."""
        ends = [end for end in self._ends if end < logits.shape[-1]]
        logits[:, ends] = float("-inf")

    def end(self, generated: Sequence[int]) -> bool:
        """Tell whether the newest of the generated tokens ends the response."""
        if generated[-1] in self._ends:
            return True
        if "\n" not in self._tokenizer.decode([generated[-1]]):
            return False
        said = str(self._tokenizer.decode(list(generated), skip_special_tokens=True))
        return "\n" in said.lstrip()

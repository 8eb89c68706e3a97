"""The record of a case's observation, shared by case runner, progress and results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from headprobe.tasks import PASSED_ABOVE


@dataclass(frozen=True, eq=False, kw_only=True)
class Observation:
    """The model's answer to one case, and each measure's score of every head on it.

    ``generated_ids`` are the tokens of all steps, the stop token included; the steps from
    ``step_start`` to ``step_end``, half open, write the answer; ``score`` is the probe's grade
    from 0 to 100.
    """

    case_id: int
    generated_ids: tuple[int, ...]
    step_start: int
    step_end: int
    response: str
    score: float
    scores: Mapping[str, Float[np.ndarray, "layer query_head"]]

    def __post_init__(self) -> None:
        tokens = self.generated_ids
        if not all(isinstance(token, int) and token >= 0 for token in tokens):
            raise ValueError("expected token ids from 0 on")
        if not 0 <= self.step_start <= self.step_end <= len(tokens):
            raise ValueError(f"expected steps among {len(tokens)}")
        if not isinstance(self.response, str) or not 0 <= self.score <= 100:
            raise ValueError("expected a text as response, and a score from 0 to 100")
        if not all(np.isfinite(scores).all() for scores in self.scores.values()):
            raise ValueError("expected finite scores")

    @property
    def passed(self) -> bool:
        """True if the probe's score says that the answer is right."""
        return self.score > PASSED_ABOVE

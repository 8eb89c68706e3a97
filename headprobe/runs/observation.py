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

    @property
    def passed(self) -> bool:
        """True if the probe's score says that the answer is right."""
        return self.score > PASSED_ABOVE

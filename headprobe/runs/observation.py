"""The record of a case's observation, shared by case runner, progress and results; its payload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float16

from headprobe.runs.payload import Payload, UnreadablePayload
from headprobe.tasks import PASSED_ABOVE

# No measure is called so.
_UTILITY = "utility.gains"


@dataclass(frozen=True, eq=False, kw_only=True)
class Observation:
    """The model's answer to one case, and each measure's score of every head on it.

    ``generated_ids`` are the tokens of all steps, the stop token included; the steps from
    ``step_start`` to ``step_end``, half open, write the answer; ``score`` is the probe's grade
    from 0 to 100. ``utility`` is what the answer's mean query gains by each fraction of a KV head's
    entries, with the question known and before it (float16), if gathered.
    """

    case_id: int
    generated_ids: tuple[int, ...]
    step_start: int
    step_end: int
    response: str
    score: float
    scores: Mapping[str, Float[np.ndarray, "layer query_head"]]
    utility: Float16[np.ndarray, "cut layer kv_head fraction"] | None = None

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
        if self.utility is not None and not (self.utility >= 0).all():
            raise ValueError("expected gains of 0 or more")

    @property
    def passed(self) -> bool:
        """True if the probe's score says that the answer is right."""
        return self.score > PASSED_ABOVE


def encode(seen: Observation) -> Payload:
    """Return the payload in which an observation is stored."""
    return Payload(
        fields={
            "generated_ids": list(seen.generated_ids),
            "steps": [seen.step_start, seen.step_end],
            "response": seen.response,
            "success": seen.score,
        },
        arrays={name: scores.astype(np.float32) for name, scores in seen.scores.items()}
        | ({} if seen.utility is None else {_UTILITY: seen.utility}),
    )


def decode(
    payload: Payload,
    *,
    case_id: int,
    measures: Sequence[str],
    shape: tuple[int, int],
    curves: tuple[int, ...] | None = None,
) -> Observation:
    """Make an observation from its payload, with scores of ``shape`` by each of the measures.

    With ``curves`` it has utility of that shape.

    Raises:
        UnreadablePayload: something is missing, scores have another shape, or a field holds what
            cannot have been observed.
    """
    try:
        step_start, step_end = payload.field("steps")
        return Observation(
            case_id=case_id,
            generated_ids=tuple(payload.field("generated_ids")),
            step_start=step_start,
            step_end=step_end,
            response=payload.field("response"),
            score=payload.field("success"),
            scores={measure: payload.array(measure, shape) for measure in measures},
            utility=payload.array(_UTILITY, curves) if curves else None,
        )
    except (TypeError, ValueError) as error:
        raise UnreadablePayload(str(error)) from error

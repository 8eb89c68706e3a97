"""Utility: the answer's attention on the entries of a KV head, by how many it keeps (LU-KV).

The curves of arXiv 2602.08585, section 3: a head's entries are put in the order in which a cache
keeps them, and the attention that the answer's queries then pay to the first of them is cumulated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

WINDOW = 8
"""The newest entries, whose queries put the earlier ones in order; they are in no curve."""
FRACTIONS = np.geomspace(2**-14, 1, 72)
"""Fractions of the earlier entries, rising to all of them."""
SETTINGS = ("query_aware", "query_agnostic")
PREFIX = "utility."
_TENSORS = {
    "fractions": f"{PREFIX}shares",
    **{field: f"{PREFIX}{field}" for field in (*SETTINGS, "tokens")},
}
"""The names in a run's file, by field."""


@dataclass(frozen=True, eq=False, kw_only=True)
class UtilityCurves:
    """The mean attention of the answer on the first entries of every KV head, 0 to 1.

    Heads keep ``fractions`` of the entries before the ``WINDOW`` newest; of ``query_aware`` and
    ``query_agnostic`` each number is the attention on the entries that such a fraction keeps. The
    entries are chosen at the end of the prompt, or before its question. ``tokens`` is the mean
    length of the prompts.
    """

    fractions: Float[np.ndarray, " fraction"]
    query_aware: Float[np.ndarray, "layer kv_head fraction"]
    query_agnostic: Float[np.ndarray, "layer kv_head fraction"]
    tokens: Float[np.ndarray, " 1"]

    def __post_init__(self) -> None:
        if self.fractions.ndim != 1 or not (np.diff(self.fractions, prepend=0) > 0).all():
            raise ValueError(f"expected rising {PREFIX}shares above 0")
        if self.tokens.shape != (1,) or not self.tokens >= 1:
            raise ValueError(f"expected one utility.tokens of 1 or more, got {self.tokens}")
        for setting in SETTINGS:
            curves = getattr(self, setting)
            if curves.shape != (*self.query_aware.shape[:2], self.fractions.size):
                size = self.fractions.size
                raise ValueError(f"expected {PREFIX}{setting} to end in {size} numbers")
            rise = np.diff(curves, prepend=0)
            if not (rise >= 0).all() or not (curves <= 1 + 1e-3).all():
                raise ValueError(f"expected {PREFIX}{setting} to rise from 0 to 1 at most")

    @classmethod
    def of(
        cls,
        gains: Sequence[Float[np.ndarray, "setting layer kv_head fraction"]],
        lengths: Sequence[int],
    ) -> UtilityCurves:
        """Average the gains of some cases with prompts of these lengths."""
        mean = np.mean(gains, axis=0, dtype=np.float64).cumsum(axis=-1).astype(np.float32)
        curves = dict(zip(SETTINGS, mean, strict=True))
        tokens = np.array([np.mean(lengths)], dtype=np.float32)
        return cls(fractions=FRACTIONS.astype(np.float32), tokens=tokens, **curves)

    @classmethod
    def mix(cls, held: Sequence[tuple[float, UtilityCurves]]) -> UtilityCurves:
        """Return the weighted mean of some curves, which all have the same fractions."""
        weights = [weight for weight, _ in held]
        if len(held) == 1:
            return held[0][1]
        means = {
            name: np.average([getattr(one, name) for _, one in held], axis=0, weights=weights)
            for name in _TENSORS
        }
        return cls(**{name: np.asarray(mean, dtype=np.float32) for name, mean in means.items()})

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> UtilityCurves | None:
        """Take the curves from a run's tensors; ``None`` where there are none.

        Raises:
            ValueError: there are only some of them, or they are no curves.
        """
        if not any(name.startswith(PREFIX) for name in tensors):
            return None
        if missing := [name for name in _TENSORS.values() if name not in tensors]:
            raise ValueError(f"it lacks '{missing[0]}'")
        return cls(**{field: tensors[name] for field, name in _TENSORS.items()})

    def to_tensors(self) -> dict[str, np.ndarray]:
        """Return the tensors that a run keeps."""
        return {name: getattr(self, field) for field, name in _TENSORS.items()}

    @cached_property
    def slopes(self) -> dict[str, Float[np.ndarray, "layer kv_head fraction"]]:
        """The slopes of each setting's concave hulls, from each fraction to the next: they fall."""
        return {
            setting: hull_slopes(self.fractions, getattr(self, setting)) for setting in SETTINGS
        }


def hull_slopes(
    fractions: Float[np.ndarray, " fraction"], curves: Float[np.ndarray, "layer kv_head fraction"]
) -> Float[np.ndarray, "layer kv_head fraction"]:
    """Return the slopes of the least concave curves that are nowhere below some curves from 0.

    Between two fractions it is the least, over starts before, of the largest mean slope to any end
    after (Barlow et al. 1972, antitonic regression).
    """
    x = np.concatenate([[0.0], fractions], dtype=np.float64)
    y = np.concatenate([np.zeros((*curves.shape[:2], 1)), curves], axis=-1, dtype=np.float64)
    rise, run = y[..., None, 1:] - y[..., :-1, None], x[None, 1:] - x[:-1, None]
    means = np.where(run > 0, rise / np.where(run > 0, run, 1.0), -np.inf)
    largest = np.maximum.accumulate(means[..., ::-1], axis=-1)[..., ::-1]
    slopes: np.ndarray = np.diagonal(np.minimum.accumulate(largest, axis=-2), axis1=-2, axis2=-1)
    return slopes

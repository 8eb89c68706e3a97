"""How much of the answer's attention the entries of a KV head hold, by how many it keeps (LU-KV).

The curves of arXiv 2602.08585, section 3: a head's entries are put in the order in which a cache
keeps them, and the attention that the answer's queries then pay to the first of them is cumulated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
from jaxtyping import Float

WINDOW = 8
"""The newest entries, whose queries put the earlier ones in order; they are in no curve."""
SHARES = np.geomspace(2**-14, 1, 72)
"""Fractions of the earlier entries, rising to all of them."""
SETTINGS = ("query_aware", "query_agnostic")
PREFIX = "utility."


@dataclass(frozen=True, eq=False, kw_only=True)
class UtilityCurves:
    """The mean attention of the answer on the first entries of every KV head, 0 to 1.

    Heads keep ``shares``, fractions of the entries before the ``WINDOW`` newest; of ``query_aware``
    and ``query_agnostic`` each number is the attention on the entries that such a share keeps. The
    entries are chosen at the end of the prompt, or before its question. ``tokens`` is the mean
    length of the prompts.
    """

    shares: Float[np.ndarray, " share"]
    query_aware: Float[np.ndarray, "layer kv_head share"]
    query_agnostic: Float[np.ndarray, "layer kv_head share"]
    tokens: Float[np.ndarray, " 1"]

    def __post_init__(self) -> None:
        if self.shares.ndim != 1 or not (np.diff(self.shares, prepend=0) > 0).all():
            raise ValueError("expected rising utility.shares above 0")
        if self.tokens.shape != (1,) or not self.tokens >= 1:
            raise ValueError(f"expected one utility.tokens of 1 or more, got {self.tokens}")
        for setting in SETTINGS:
            curves = getattr(self, setting)
            if curves.shape != (*self.query_aware.shape[:2], self.shares.size):
                raise ValueError(f"expected {PREFIX}{setting} to end in {self.shares.size} shares")
            rise = np.diff(curves, prepend=0)
            if not (rise >= 0).all() or not (curves <= 1 + 1e-3).all():
                raise ValueError(f"expected {PREFIX}{setting} to rise from 0 to 1 at most")

    @classmethod
    def of(
        cls,
        gains: Sequence[Float[np.ndarray, "setting layer kv_head share"]],
        lengths: Sequence[int],
    ) -> UtilityCurves:
        """Average the gains of some cases with prompts of these lengths."""
        mean = np.mean(gains, axis=0, dtype=np.float64).cumsum(axis=-1).astype(np.float32)
        curves = dict(zip(SETTINGS, mean, strict=True))
        tokens = np.array([np.mean(lengths)], dtype=np.float32)
        return cls(shares=SHARES.astype(np.float32), tokens=tokens, **curves)

    @classmethod
    def mix(cls, held: Sequence[tuple[float, UtilityCurves]]) -> UtilityCurves:
        """Return the weighted mean of some curves, which all have the same shares."""
        weights = [weight for weight, _ in held]
        if len(held) == 1:
            return held[0][1]
        means = {
            name: np.average([getattr(one, name) for _, one in held], axis=0, weights=weights)
            for name in ("shares", "tokens", *SETTINGS)
        }
        return cls(**{name: np.asarray(mean, dtype=np.float32) for name, mean in means.items()})

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, np.ndarray]) -> UtilityCurves | None:
        """Take the curves from a run's tensors; ``None`` where there are none.

        Raises:
            ValueError: there are only some of them, or they are no curves.
        """
        names = [f"{PREFIX}{field.name}" for field in fields(cls)]
        if not any(name.startswith(PREFIX) for name in tensors):
            return None
        if missing := [name for name in names if name not in tensors]:
            raise ValueError(f"it lacks '{missing[0]}'")
        return cls(**{name.removeprefix(PREFIX): tensors[name] for name in names})

    def to_tensors(self) -> dict[str, np.ndarray]:
        """Return the tensors that a run keeps."""
        return {f"{PREFIX}{field.name}": getattr(self, field.name) for field in fields(self)}

    @cached_property
    def slopes(self) -> dict[str, Float[np.ndarray, "layer kv_head share"]]:
        """The slopes of each setting's concave hulls, from each share to the next: they fall."""
        return {setting: hull_slopes(self.shares, getattr(self, setting)) for setting in SETTINGS}


def hull_slopes(
    shares: Float[np.ndarray, " share"], curves: Float[np.ndarray, "layer kv_head share"]
) -> Float[np.ndarray, "layer kv_head share"]:
    """Return the slopes of the least concave curves that are nowhere below some curves from 0.

    Between two shares it is the least, over starts before, of the largest mean slope to any end
    after (Barlow et al. 1972, antitonic regression).
    """
    x = np.concatenate([[0.0], shares], dtype=np.float64)
    y = np.concatenate([np.zeros((*curves.shape[:2], 1)), curves], axis=-1, dtype=np.float64)
    rise, run = y[..., None, 1:] - y[..., :-1, None], x[None, 1:] - x[:-1, None]
    means = np.where(run > 0, rise / np.where(run > 0, run, 1.0), -np.inf)
    largest = np.maximum.accumulate(means[..., ::-1], axis=-1)[..., ::-1]
    slopes: np.ndarray = np.diagonal(np.minimum.accumulate(largest, axis=-2), axis1=-2, axis2=-1)
    return slopes

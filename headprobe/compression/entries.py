"""Records of the entries that heads hold: of one head, of several, and compensation entries."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Float32, Int32
from torch import Tensor

COMPENSATION = -1
"""The position of an entry that stands for what was dropped."""
PADDING = 2**31 - 1
"""The position of what is no entry, where heads of different lengths are padded to one."""


@dataclass(frozen=True, eq=False, kw_only=True)
class HeadEntries:
    """The entries of one head of one sequence, the oldest first.

    ``positions`` are token positions. With a ``weight`` above 0 the first entry stands for that
    many tokens that were dropped, and its position is ``COMPENSATION``.
    """

    keys: Float[Tensor, "key head_dim"]
    values: Float[Tensor, "key value_dim"]
    positions: Int32[Tensor, " key"]
    weight: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Block:
    """Several heads' entries as one tensor: views of the buffer, or padded copies.

    ``stored`` is where they stand in the order of storage. ``positions`` is ``None`` where it was
    not asked for and there is no padding, whose position is ``PADDING``. ``log_weights`` is given
    where some begin with a compensation entry: what the score of the first entry gains, 0 for a
    head that has none.
    """

    stored: slice
    keys: Float[Tensor, "head_entries key head_dim"]
    values: Float[Tensor, "head_entries key value_dim"]
    positions: Int32[Tensor, "head_entries key"] | None
    log_weights: Float32[Tensor, " head_entries"] | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Compensation:
    """The compensation entry of every head, in the order of storage.

    A kernel counts it once; ``log_more`` is the log of how often it still counts, minus infinity
    for a head that has none.
    """

    keys: Float[Tensor, "head_entries head_dim"]
    values: Float[Tensor, "head_entries value_dim"]
    log_more: Float32[Tensor, " head_entries"]

"""The view of a layer that selections are given: its entries, and what the cache saw of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float32, Int64, Shaped
from torch import Tensor
from torch.nn.functional import max_pool1d

from headprobe.compression.held import Held
from headprobe.compression.query_moments import QueryMoments
from headprobe.errors import HeadprobeError

POOL_KERNEL = 7
REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "mean": torch.mean,
    "max": torch.amax,
    "sum": torch.sum,
}


class WindowAttention(NamedTuple):
    """The mean and the largest attention of the newest queries to every entry."""

    mean: Float32[Tensor, "*head key"]
    largest: Float32[Tensor, "*head key"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Evidence:
    """All that a cache has seen of a layer, besides keys and values.

    ``attention`` gives, for a number of newest queries, their attention to the entries held.
    ``queries`` are the moments of all queries, ``output`` the output projection of every query
    head, ``reconstruction`` the largest attention that a repetition of the context pays to every
    token: each ``None`` unless a selection needs it. ``tokens`` counts the tokens seen, padding
    included; ``scaling`` multiplies the products of queries and keys.
    """

    tokens: int
    attention: Callable[[int], WindowAttention]
    scaling: float
    queries: QueryMoments | None = None
    output: Float[Tensor, "query_head value_dim hidden"] | None = None
    reconstruction: Float32[Tensor, "query_head key"] | None = None


class EntryScores(NamedTuple):
    """The worth of entries to each head; the entries that are worth most are kept.

    Of entries of equal worth the one with the higher ``ties`` goes first, then the older. With
    ``first`` the half of what a head keeps is taken by that number, ties in the same way, and only
    the other half by ``worth``.
    """

    worth: Float32[Tensor, "head_entries key"]
    ties: Float32[Tensor, "head_entries key"] | None = None
    first: Float32[Tensor, "head_entries key"] | None = None


class LayerView:
    """The entries of a layer's heads, and what the cache has seen of them.

    Heads are those that choose: of all sequences one after the other, each with a group of query
    heads. Of each head the first ``counts`` columns are its entries, the oldest first; what stands
    in the other columns means nothing.

    Args:
        held: the entries.
        evidence: what was seen besides.
        slots: the column in ``held`` of every entry; ``None`` where they are in their places.
        counts: the number of entries of every head.
        sequences: the number of sequences.
        window: the number of newest entries that are kept in any case; their queries choose.
        reduction: how the numbers of a group's query heads become one: mean, max or sum.
    """

    def __init__(
        self,
        held: Held,
        evidence: Evidence,
        *,
        slots: Int64[Tensor, "head_entries key"] | None,
        counts: Int64[Tensor, " head_entries"],
        sequences: int,
        window: int,
        reduction: str,
    ) -> None:
        self._held = held
        self._slots = slots
        self._reduction = reduction
        self.evidence = evidence
        self.counts = counts
        self.sequences = sequences
        self.window = window

    @property
    def device(self) -> torch.device:
        """The device of the layer."""
        return self._held.keys.device

    @property
    def columns(self) -> int:
        """The number of columns: the most entries of a head."""
        return self._held.keys.shape[1] if self._slots is None else self._slots.shape[1]

    @cached_property
    def column(self) -> Int64[Tensor, " key"]:
        """The numbers of the columns."""
        return torch.arange(self.columns, device=self.device)

    @cached_property
    def entries(self) -> Bool[Tensor, "head_entries key"]:
        """Mark the columns that hold an entry."""
        return self.column < self.counts[:, None]

    @cached_property
    def older(self) -> Bool[Tensor, "head_entries key"]:
        """Mark the entries before the window."""
        return self.column < (self.counts - self.window)[:, None]

    @cached_property
    def attention(self) -> WindowAttention:
        """The newest queries' attention, ``[head_entries, group, key]``."""
        mean, largest = self.evidence.attention(self.window)
        return WindowAttention(self.by_head(mean), self.by_head(largest))

    @property
    def keys(self) -> Float[Tensor, "head_entries key head_dim"]:
        """The key of every entry."""
        return self._of_heads(self._held.keys)

    @property
    def values(self) -> Float[Tensor, "head_entries key value_dim"]:
        """The value of every entry."""
        return self._of_heads(self._held.values)

    @property
    def positions(self) -> Int64[Tensor, "head_entries key"]:
        """The token of every entry, padding counted."""
        positions = self._held.positions.expand(len(self._held.keys), -1)
        return self._of_heads(positions[..., None])[..., 0].long()

    def by_head(
        self, numbers: Shaped[Tensor, "query_head held"]
    ) -> Shaped[Tensor, "head_entries group key"]:
        """Bring numbers of the entries held under the heads and into the columns."""
        grouped = numbers.view(len(self.counts), -1, numbers.shape[1])
        if self._slots is None:
            return grouped
        return grouped.gather(2, self._slots[:, None].expand(-1, grouped.shape[1], -1))

    def reduce(
        self, numbers: Float32[Tensor, "head_entries group key"]
    ) -> Float32[Tensor, "head_entries key"]:
        """Reduce the numbers of a group's query heads to one, as the budget says."""
        reduced: Tensor = REDUCTIONS[self._reduction](numbers, dim=1)
        return reduced

    def pool(
        self, numbers: Float32[Tensor, "head_entries key"]
    ) -> Float32[Tensor, "head_entries key"]:
        """Spread each number to the entry's neighbours, the window left out (SnapKV)."""
        older = numbers.masked_fill(~self.older, -torch.inf)
        pooled: Tensor = max_pool1d(older, POOL_KERNEL, stride=1, padding=POOL_KERNEL // 2)
        return pooled

    def needed(self, what: str) -> HeadprobeError:
        """Make the error of a selection that lacks something it needs."""
        return HeadprobeError(f"this selection needs {what}, which the cache has not gathered")

    def _of_heads(
        self, held: Shaped[Tensor, "row held dim"]
    ) -> Shaped[Tensor, "head_entries key dim"]:
        """Repeat what is held for the heads that share it, and bring it into the columns."""
        source = self._held.source
        own = held if len(source) == len(held) else held[source]
        if self._slots is None:
            return own
        return own.gather(1, self._slots[..., None].expand(-1, -1, held.shape[2]))

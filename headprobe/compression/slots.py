"""The slots of a buffer that hold the entries of heads, one head after another.

Each head's own entries are followed by free slots, the same number for every head, into which new
entries go.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from jaxtyping import Int, Int32, Int64
from torch import Tensor


class SlotLayout:
    """The place of every head's entries in a buffer.

    ``order`` holds the heads' numbers in the order of storage and ``place`` is its inverse; both
    are ``None`` where heads are stored as they are numbered, as on a GPU. In that order head i has
    the slots from ``bounds[i]`` to ``bounds[i + 1]``, of which ``used[i]`` hold entries: ``sizes``
    of them when it was laid out, ``grown`` since. ``free`` slots of every head are left, and
    ``longest`` is the number of slots of the longest head, free ones included. ``ends`` is the
    first free slot of each head, by the heads' numbers.

    Args:
        sizes: the number of entries of every head, in the order of storage.
        order: the heads' numbers in the order of storage.
        device: the device of the buffer.
    """

    _query_bounds: tuple[int, Int32[Tensor, " bound"]]

    def __init__(self, sizes: Sequence[int], order: Sequence[int], device: torch.device) -> None:
        self.sizes, self._order = list(sizes), list(order)
        self.grown = self.free = 0
        self.order: Int64[Tensor, " head_entries"] | None = None
        self.place: Int64[Tensor, " head_entries"] | None = None
        if self._order != sorted(self._order):
            self.order = torch.tensor(self._order, device=device)
            self.place = self.order.argsort()
        self._lay_out(device)

    @property
    def heads(self) -> int:
        """The number of heads."""
        return len(self.sizes)

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors of the layout."""
        return [held for held in vars(self).values() if isinstance(held, Tensor)]

    @property
    def lengths(self) -> list[int]:
        """The number of entries of every head, by the heads' numbers."""
        return self.numbered([size + self.grown for size in self.sizes])

    @property
    def starts(self) -> list[int]:
        """The first slot of every head, by the heads' numbers."""
        slots = (size + self.grown + self.free for size in self.sizes)
        return self.numbered([0, *accumulate(slots)][:-1])

    def numbered(self, stored: Sequence[int]) -> list[int]:
        """Reorder a number for every head from the order of storage to that of the heads."""
        numbered = [0] * len(stored)
        for head, value in zip(self._order, stored, strict=True):
            numbered[head] = value
        return numbered

    def next(self, tokens: int) -> Int64[Tensor, " slot"]:
        """List the first free slots of every head, by the heads' numbers."""
        if tokens == 1:
            return self.ends
        return (self.ends[:, None] + torch.arange(tokens, device=self.ends.device)).flatten()

    def fill(self, tokens: int) -> None:
        """Count slots of every head as used on the device; ``advance`` does so on the host."""
        self.ends += tokens
        self.used += tokens

    def advance(self, tokens: int) -> None:
        """Count slots of every head as used on the host; a number below 0 gives the newest up."""
        self.free -= tokens
        self.grown += tokens

    def newest(self, tokens: int) -> Int64[Tensor, " slot"]:
        """List the slots of every head's newest tokens, by the heads' numbers."""
        new = torch.arange(-tokens, 0, device=self.ends.device)
        return (self.ends[:, None] + new).flatten()

    def widen(self, free: int) -> tuple[Int64[Tensor, " slot"], Int64[Tensor, " slot"]]:
        """Lay the heads out anew with ``free`` slots for each.

        Returns:
            The slot of every entry before, and after.
        """
        lengths = [size + self.grown for size in self.sizes]
        before = used_slots(self.bounds[:-1], self.used, sum(lengths))
        heads = torch.arange(len(lengths), device=before.device)
        moved = (heads * (free - self.free)).repeat_interleave(self.used, output_size=len(before))
        self.sizes, self.grown, self.free = lengths, 0, free
        self._lay_out(before.device)
        return before, before + moved

    def query_bounds(self, queries: int) -> Int32[Tensor, " bound"]:
        """Return where each head's queries start among all heads' queries, and where they end."""
        if self._query_bounds[0] != queries:
            heads = torch.arange(self.heads + 1, dtype=torch.int32, device=self.bounds.device)
            self._query_bounds = queries, heads * queries
        return self._query_bounds[1]

    def _lay_out(self, device: torch.device) -> None:
        """Note where every head starts and ends."""
        slots = self.free + self.grown
        lengths = torch.tensor(self.sizes, dtype=torch.int32)
        bounds = torch.nn.functional.pad((lengths + slots).cumsum(0, dtype=torch.int32), (1, 0))
        self.bounds: Int32[Tensor, " bound"] = bounds.to(device)
        self.used: Int32[Tensor, " head_entries"] = (lengths + self.grown).to(device)
        ends = (self.bounds[:-1] + self.used).long()
        self.ends: Int64[Tensor, " head_entries"] = ends if self.place is None else ends[self.place]
        self._query_bounds = 0, self.bounds
        self.longest = max(self.sizes) + slots


def storage_order(
    sizes: Sequence[int], weights: Sequence[int], *, device: torch.device
) -> list[int]:
    """Return the order in which heads of these numbers of entries are stored."""
    if device.type == "cuda":
        return list(range(len(sizes)))
    return sorted(range(len(sizes)), key=lambda number: (weights[number] > 0, sizes[number]))


def used_slots(
    starts: Int[Tensor, " head_entries"], used: Int[Tensor, " head_entries"], total: int
) -> Int64[Tensor, " slot"]:
    """List the slots that hold entries, one head after another."""
    ends = used.cumsum(0)
    shift = (starts + used - ends).repeat_interleave(used, output_size=total)
    return torch.arange(total, device=starts.device) + shift

"""Keys and values of heads that keep different numbers of entries, in one buffer a layer.

What one head of one sequence holds is its head entries; they are stored one head after another.
On a CPU the shortest stand first, so that heads of equal length make a block: a view of the buffer
that one kernel call takes. On a GPU one call of a kernel for sequences of different lengths takes
all of them as they come. Where each lies is laid out once, when entries are chosen; new entries
go into free slots after each head's own, and when these are used up the buffer is laid out anew
with more of them, so that decoding seldom moves what is stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
from jaxtyping import Float, Float32, Int, Int32, Int64
from torch import Tensor

COMPENSATION = -1
"""The position of an entry that stands for what was dropped."""
PADDING = 2**31 - 1
"""The position of what is no entry, where heads of different lengths are padded to one."""
_FREE = 16


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


@dataclass(frozen=True, eq=False, kw_only=True)
class _Span:
    """Heads of equal length: where they stand, and how many entries they had when laid out."""

    stored: slice
    size: int
    compensated: bool
    keys: Float[Tensor, "head_entries slot head_dim"]
    values: Float[Tensor, "head_entries slot value_dim"]
    positions: Int32[Tensor, "head_entries slot"]


class Ragged:
    """The entries of heads that keep different numbers of them and all grow by the same tokens.

    ``order`` holds the heads' numbers in the order of storage and ``place`` is its inverse; both
    are ``None`` where heads are stored as they are numbered, as on a GPU. In that order head i has
    the slots from ``bounds[i]`` to ``bounds[i + 1]`` of the buffers, of which ``used[i]`` hold
    entries.

    Args:
        keys: the entries of one head after another, in the order of storage, and no free slots.
        values: the values of these entries.
        positions: the token positions of these entries.
        sizes: the number of entries of every head, in the order of storage.
        weights: for every head, the tokens that its first entry stands for, or 0.
        order: the heads' numbers in the order of storage.
    """

    def __init__(
        self,
        keys: Float[Tensor, "slot head_dim"],
        values: Float[Tensor, "slot value_dim"],
        positions: Int32[Tensor, " slot"],
        *,
        sizes: Sequence[int],
        weights: Sequence[int],
        order: Sequence[int],
    ) -> None:
        self.keys, self.values, self.positions = keys, values, positions
        self._sizes, self._weights, self._order = list(sizes), list(weights), list(order)
        self._grown = self._unwritten = self._free = 0
        self._query_bounds: tuple[int, Tensor] = (0, positions)
        self.order: Int64[Tensor, " head_entries"] | None = None
        self.place: Int64[Tensor, " head_entries"] | None = None
        if self._order != sorted(self._order):
            self.order = torch.tensor(self._order, device=keys.device)
            self.place = self.order.argsort()
        self._log_weights: Float32[Tensor, " head_entries"] | None = None
        if any(self._weights):
            counts = torch.tensor(self._weights, device=keys.device)
            self._log_weights = counts.clamp(min=1).log()
        self.has_varlen_kernel = _has_varlen_kernel(keys, values)
        self._lay_out()
        self.compensation = self._compensation()

    @classmethod
    def of(cls, held: Sequence[HeadEntries]) -> Ragged:
        """Store the entries of some heads."""
        sizes = [len(one.positions) for one in held]
        return cls._sorted(
            torch.cat([one.keys for one in held]),
            torch.cat([one.values for one in held]),
            torch.cat([one.positions for one in held]),
            starts=[0, *accumulate(sizes)][:-1],
            sizes=sizes,
            weights=[one.weight for one in held],
        )

    @classmethod
    def join(cls, parts: Sequence[Ragged]) -> Ragged:
        """Join the heads of several stores, in the order of ``parts``."""
        for part in parts:
            part._write_positions()
        shifts = [0, *accumulate(len(part.keys) for part in parts)]
        return cls._sorted(
            torch.cat([part.keys for part in parts]),
            torch.cat([part.values for part in parts]),
            torch.cat([part.positions for part in parts]),
            starts=[
                shift + start
                for shift, part in zip(shifts, parts, strict=False)
                for start in part._numbered(part._starts())
            ],
            sizes=[length for part in parts for length in part.lengths],
            weights=[weight for part in parts for weight in part.weights],
        )

    def take(self, heads: Sequence[int]) -> Ragged:
        """Copy these heads, in this order, into a new store."""
        self._write_positions()
        starts, lengths, weights = self._numbered(self._starts()), self.lengths, self.weights
        return self._sorted(
            self.keys,
            self.values,
            self.positions,
            starts=[starts[head] for head in heads],
            sizes=[lengths[head] for head in heads],
            weights=[weights[head] for head in heads],
        )

    @classmethod
    def _sorted(
        cls,
        keys: Float[Tensor, "slot head_dim"],
        values: Float[Tensor, "slot value_dim"],
        positions: Int32[Tensor, " slot"],
        *,
        starts: Sequence[int],
        sizes: Sequence[int],
        weights: Sequence[int],
    ) -> Ragged:
        """Put heads that lie anywhere in some buffers into the order of storage."""
        order = storage_order(sizes, weights, device=keys.device)
        lengths = [sizes[head] for head in order]
        slots = _slots(
            torch.tensor([starts[head] for head in order], device=keys.device),
            torch.tensor(lengths, device=keys.device),
            sum(lengths),
        )
        return cls(
            *(buffer.index_select(0, slots) for buffer in (keys, values, positions)),
            sizes=lengths,
            weights=[weights[head] for head in order],
            order=order,
        )

    @property
    def heads(self) -> int:
        """The number of heads of all sequences."""
        return len(self._sizes)

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors held: the buffers, free slots and positions included, and their layout."""
        own = [held for held in vars(self).values() if isinstance(held, Tensor)]
        return own if self.compensation is None else [*own, *vars(self.compensation).values()]

    @property
    def weights(self) -> list[int]:
        """For every head, the number of tokens that its first entry stands for, or 0."""
        return self._numbered(self._weights)

    @property
    def lengths(self) -> list[int]:
        """The number of entries of every head."""
        return self._numbered([size + self._grown for size in self._sizes])

    def _numbered(self, stored: Sequence[int]) -> list[int]:
        """Reorder a number for every head from the order of storage to that of the heads."""
        numbered = [0] * len(stored)
        for head, value in zip(self._order, stored, strict=True):
            numbered[head] = value
        return numbered

    def blocks(self, *, positions: bool) -> Iterator[Block]:
        """Yield all heads' entries, block by block in the order of storage.

        On a GPU, where a kernel call costs more than the padding that it avoids, there is one
        block.
        """
        if positions:
            self._write_positions()
        if not self._spans:
            yield self.padded(positions=positions)
        for span in self._spans:
            length = span.size + self._grown
            yield Block(
                stored=span.stored,
                keys=span.keys[:, :length],
                values=span.values[:, :length],
                positions=span.positions[:, :length] if positions else None,
                log_weights=self._log_weights[span.stored]
                if span.compensated and self._log_weights is not None
                else None,
            )

    def numbers(self, block: Block) -> Int64[Tensor, " head_entries"]:
        """Return the numbers of a block's heads."""
        if self.order is None:
            start, stop, _ = block.stored.indices(len(self._sizes))
            return torch.arange(start, stop, device=self.keys.device)
        return self.order[block.stored]

    def padded(self, *, positions: bool) -> Block:
        """Copy all heads' entries into one block, each head filled up to the length of the longest.

        A head is filled up with its newest entry. Without ``positions`` the block's positions say
        what is padding all the same, and nothing else.
        """
        if positions:
            self._write_positions()
        longest = max(self._sizes) + self._grown
        place = torch.arange(longest, device=self.keys.device)
        inside = place < self.used[:, None]
        slots = self.bounds[:-1, None] + torch.minimum(place, self.used[:, None] - 1).clamp(min=0)
        found = self.positions[slots] if positions else torch.zeros_like(slots, dtype=torch.int32)
        return Block(
            stored=slice(0, len(self._sizes)),
            keys=self.keys[slots],
            values=self.values[slots],
            positions=found.masked_fill(~inside, PADDING),
            log_weights=self._log_weights,
        )

    def held(self) -> list[HeadEntries]:
        """Return the entries of every head."""
        self._write_positions()
        starts = self._numbered(self._starts())
        return [
            HeadEntries(
                keys=self.keys[start : start + length],
                values=self.values[start : start + length],
                positions=self.positions[start : start + length],
                weight=weight,
            )
            for start, length, weight in zip(starts, self.lengths, self.weights, strict=True)
        ]

    def append(
        self,
        keys: Float[Tensor, "head_entries token head_dim"],
        values: Float[Tensor, "head_entries token value_dim"],
        position: int,
    ) -> None:
        """Add the same tokens to every head; the first of them stands at ``position``.

        Tokens of successive calls must follow one another.
        """
        tokens = keys.shape[1]
        # What was made under inference mode cannot be written to outside of it.
        locked = self.keys.is_inference() and not torch.is_inference_mode_enabled()
        if tokens > self._free or locked:
            longest = math.ceil(sum(self._sizes) / len(self._sizes) + self._grown)
            self.set_aside(max(tokens, math.ceil(longest / _FREE)))
        slots = self._ends
        if tokens > 1:
            slots = (slots[:, None] + torch.arange(tokens, device=slots.device)).flatten()
        self.keys.index_copy_(0, slots, keys.reshape(-1, keys.shape[2]))
        self.values.index_copy_(0, slots, values.reshape(-1, values.shape[2]))
        self._ends += tokens
        self.used += tokens
        self.advance(tokens, position)

    def advance(self, tokens: int, position: int) -> None:
        """Count tokens from ``position`` on as stored; a number below 0 gives the newest up."""
        self._free -= tokens
        self._grown += tokens
        self._unwritten += tokens
        self._stop = position + tokens

    def set_aside(self, tokens: int) -> None:
        """Lay the buffer out anew with free slots for that many tokens."""
        self._write_positions()
        lengths = [size + self._grown for size in self._sizes]
        before = _slots(self.bounds[:-1], self.used, sum(lengths))
        heads = torch.arange(len(lengths), device=before.device)
        moved = (heads * (tokens - self._free)).repeat_interleave(
            self.used, output_size=len(before)
        )
        total = sum(lengths) + len(lengths) * tokens
        self.keys, self.values, self.positions = (
            buffer.new_empty(total, *buffer.shape[1:]).index_copy_(
                0, before + moved, buffer.index_select(0, before)
            )
            for buffer in (self.keys, self.values, self.positions)
        )
        self._sizes, self._grown, self._free = lengths, 0, tokens
        self._lay_out()

    def query_bounds(self, queries: int) -> Int32[Tensor, " bound"]:
        """Return where each head's queries start among all heads' queries, and where they end."""
        if self._query_bounds[0] != queries:
            heads = torch.arange(self.heads + 1, dtype=torch.int32, device=self.keys.device)
            self._query_bounds = queries, heads * queries
        return self._query_bounds[1]

    def _starts(self) -> list[int]:
        """List the first slot of every head, in the order of storage."""
        slots = (size + self._grown + self._free for size in self._sizes)
        return [0, *accumulate(slots)][:-1]

    def _lay_out(self) -> None:
        """Note where every head starts and ends, and which heads make a block."""
        device, slots = self.keys.device, self._free + self._grown
        lengths = torch.tensor(self._sizes, dtype=torch.int32)
        bounds = torch.nn.functional.pad((lengths + slots).cumsum(0, dtype=torch.int32), (1, 0))
        self.bounds: Int32[Tensor, " bound"] = bounds.to(device)
        self.used: Int32[Tensor, " head_entries"] = (lengths + self._grown).to(device)
        ends = (self.bounds[:-1] + self.used).long()
        self._ends: Int64[Tensor, " head_entries"] = (
            ends if self.place is None else ends[self.place]
        )
        self._query_bounds = 0, self.bounds
        #: Slots of the longest head, free ones included.
        self.longest = max(self._sizes) + slots
        #: Keys and values in the shape that kernels take for one KV head.
        self.states = self.keys[:, None], self.values[:, None]
        self._spans = [*self._equal_lengths()]

    def _equal_lengths(self) -> Iterator[_Span]:
        kinds = [
            (weight > 0, size) for weight, size in zip(self._weights, self._sizes, strict=True)
        ]
        if self.keys.is_cuda and len(set(kinds)) > 1:
            return
        first = start = 0
        for (compensated, size), same in groupby(kinds):
            count, slots = len(list(same)), size + self._grown + self._free
            stop = start + count * slots
            keys, values, positions = (
                buffer[start:stop].view(count, slots, *buffer.shape[1:])
                for buffer in (self.keys, self.values, self.positions)
            )
            yield _Span(
                stored=slice(first, first + count),
                size=size,
                compensated=compensated,
                keys=keys,
                values=values,
                positions=positions,
            )
            first, start = first + count, stop

    def _write_positions(self) -> None:
        """Write the positions of the tokens that were added since they were last asked for."""
        if not self._unwritten:
            return
        # What was made under inference mode can be written to there alone.
        with torch.inference_mode(self.positions.is_inference()):
            new = torch.arange(-self._unwritten, 0, device=self._ends.device)
            slots = (self._ends[:, None] + new).flatten()
            positions = (new + self._stop).int().repeat(len(self._sizes))
            self.positions.index_copy_(0, slots, positions)
        self._unwritten = 0

    def _compensation(self) -> Compensation | None:
        if not self.has_varlen_kernel or self._log_weights is None:
            return None
        first = self.bounds[:-1]
        counts = torch.tensor(self._weights, device=first.device)
        return Compensation(
            keys=self.keys[first],
            values=self.values[first],
            log_more=(counts - 1).clamp(min=0).log(),
        )


def storage_order(
    sizes: Sequence[int], weights: Sequence[int], *, device: torch.device
) -> list[int]:
    """Return the order in which heads of these numbers of entries are stored."""
    if device.type == "cuda":
        return list(range(len(sizes)))
    return sorted(range(len(sizes)), key=lambda number: (weights[number] > 0, sizes[number]))


def _slots(
    starts: Int[Tensor, " head_entries"], used: Int[Tensor, " head_entries"], total: int
) -> Int64[Tensor, " slot"]:
    """List the slots that hold entries, one head after another."""
    ends = used.cumsum(0)
    shift = (starts + used - ends).repeat_interleave(used, output_size=total)
    return torch.arange(total, device=starts.device) + shift


def _has_varlen_kernel(keys: Tensor, values: Tensor) -> bool:
    """Return whether PyTorch's flash kernel for sequences of different lengths takes entries."""
    head_dim = keys.shape[1]
    return (
        keys.is_cuda
        and keys.dtype in (torch.float16, torch.bfloat16)
        and head_dim == values.shape[1] <= 256
        and head_dim % 8 == 0
        and torch.version.hip is None
        and torch.cuda.get_device_capability(keys.device) >= (8, 0)
    )

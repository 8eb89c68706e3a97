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
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor

from headprobe.compression.entries import PADDING, Block, Compensation, HeadEntries
from headprobe.compression.slots import SlotLayout, storage_order, used_slots

_FREE = 16


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

    ``slots`` says where each head's entries lie in the buffers.

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
        self.slots = SlotLayout(sizes, order, keys.device)
        self._weights = list(weights)
        self._unwritten = 0
        self._log_weights: Float32[Tensor, " head_entries"] | None = None
        if any(self._weights):
            counts = torch.tensor(self._weights, device=keys.device)
            self._log_weights = counts.clamp(min=1).log()
        self.has_varlen_kernel = _has_varlen_kernel(keys, values)
        self._view()
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
                for start in part.slots.starts
            ],
            sizes=[length for part in parts for length in part.lengths],
            weights=[weight for part in parts for weight in part.weights],
        )

    def take(self, heads: Sequence[int]) -> Ragged:
        """Copy these heads, in this order, into a new store."""
        self._write_positions()
        starts, lengths, weights = self.slots.starts, self.lengths, self.weights
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
        slots = used_slots(
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
        return self.slots.heads

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors held: the buffers, free slots and positions included, and their layout."""
        own = [held for held in vars(self).values() if isinstance(held, Tensor)]
        extra = [] if self.compensation is None else [*vars(self.compensation).values()]
        return [*own, *self.slots.tensors, *extra]

    @property
    def weights(self) -> list[int]:
        """For every head, the number of tokens that its first entry stands for, or 0."""
        return self.slots.numbered(self._weights)

    @property
    def lengths(self) -> list[int]:
        """The number of entries of every head."""
        return self.slots.lengths

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
            length = span.size + self.slots.grown
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
        if self.slots.order is None:
            start, stop, _ = block.stored.indices(self.heads)
            return torch.arange(start, stop, device=self.keys.device)
        return self.slots.order[block.stored]

    def padded(self, *, positions: bool) -> Block:
        """Copy all heads' entries into one block, each head filled up to the length of the longest.

        A head is filled up with its newest entry. Without ``positions`` the block's positions say
        what is padding all the same, and nothing else.
        """
        if positions:
            self._write_positions()
        used = self.slots.used[:, None]
        place = torch.arange(max(self.lengths), device=self.keys.device)
        slots = self.slots.bounds[:-1, None] + torch.minimum(place, used - 1).clamp(min=0)
        found = self.positions[slots] if positions else torch.zeros_like(slots, dtype=torch.int32)
        return Block(
            stored=slice(0, self.heads),
            keys=self.keys[slots],
            values=self.values[slots],
            positions=found.masked_fill(place >= used, PADDING),
            log_weights=self._log_weights,
        )

    def held(self) -> list[HeadEntries]:
        """Return the entries of every head."""
        self._write_positions()
        return [
            HeadEntries(
                keys=self.keys[start : start + length],
                values=self.values[start : start + length],
                positions=self.positions[start : start + length],
                weight=weight,
            )
            for start, length, weight in zip(
                self.slots.starts, self.lengths, self.weights, strict=True
            )
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
        if tokens > self.slots.free or locked:
            mean = math.ceil(sum(self.lengths) / self.heads)
            self.set_aside(max(tokens, math.ceil(mean / _FREE)))
        slots = self.slots.next(tokens)
        self.keys.index_copy_(0, slots, keys.reshape(-1, keys.shape[2]))
        self.values.index_copy_(0, slots, values.reshape(-1, values.shape[2]))
        self.slots.fill(tokens)
        self.advance(tokens, position)

    def advance(self, tokens: int, position: int) -> None:
        """Count tokens from ``position`` on as stored; a number below 0 gives the newest up."""
        self.slots.advance(tokens)
        self._unwritten += tokens
        self._stop = position + tokens

    def set_aside(self, tokens: int) -> None:
        """Lay the buffer out anew with free slots for that many tokens."""
        self._write_positions()
        before, after = self.slots.widen(tokens)
        total = len(before) + self.heads * tokens
        self.keys, self.values, self.positions = (
            buffer.new_empty(total, *buffer.shape[1:]).index_copy_(
                0, after, buffer.index_select(0, before)
            )
            for buffer in (self.keys, self.values, self.positions)
        )
        self._view()

    def _view(self) -> None:
        """Make the views of the buffers that kernels take."""
        #: Keys and values in the shape that kernels take for one KV head.
        self.states = self.keys[:, None], self.values[:, None]
        self._spans = [*self._equal_lengths()]

    def _equal_lengths(self) -> Iterator[_Span]:
        sizes = self.slots.sizes
        kinds = [(weight > 0, size) for weight, size in zip(self._weights, sizes, strict=True)]
        if self.keys.is_cuda and len(set(kinds)) > 1:
            return
        first = start = 0
        for (compensated, size), same in groupby(kinds):
            count, slots = len(list(same)), size + self.slots.grown + self.slots.free
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
            slots = self.slots.newest(self._unwritten)
            new = torch.arange(self._stop - self._unwritten, self._stop, device=slots.device)
            self.positions.index_copy_(0, slots, new.int().repeat(self.heads))
        self._unwritten = 0

    def _compensation(self) -> Compensation | None:
        if not self.has_varlen_kernel or self._log_weights is None:
            return None
        first = self.slots.bounds[:-1]
        counts = torch.tensor(self._weights, device=first.device)
        return Compensation(
            keys=self.keys[first],
            values=self.values[first],
            log_more=(counts - 1).clamp(min=0).log(),
        )


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

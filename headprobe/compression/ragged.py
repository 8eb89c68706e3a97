"""Keys and values of heads that keep different numbers of entries, in one buffer a layer.

A stream is one head of one sequence. Streams are stored one behind the other, the shortest first,
so that those of equal length make a block: a view of the buffer that one kernel call takes. New
entries go into free room behind each stream; when it is used up the buffer is laid out anew with
a little more of it, so that decoding seldom moves what is stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor

COMPENSATION = -1
_ROOM = 16


@dataclass(frozen=True, eq=False, kw_only=True)
class Stream:
    """What one head of one sequence holds, oldest entry first.

    ``positions`` are token positions. With a ``weight`` above 0 the first entry stands for that
    many tokens that were dropped, and its position is ``COMPENSATION``.
    """

    keys: Float[Tensor, "key head_dim"]
    values: Float[Tensor, "key value_dim"]
    positions: Int32[Tensor, " key"]
    weight: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Block:
    """Streams of equal length, as views of the buffer.

    ``streams`` are their numbers, ``stored`` where they stand in the order of storage.
    ``log_weights`` is given where some begin with a compensation entry: what the score of the
    first entry gains, 0 in a stream that has none.
    """

    streams: Int64[Tensor, " stream"]
    stored: slice
    keys: Float[Tensor, "stream key head_dim"]
    values: Float[Tensor, "stream key value_dim"]
    positions: Int32[Tensor, "stream key"]
    log_weights: Float32[Tensor, " stream"] | None


class Ragged:
    """Streams of different lengths that all grow by the same tokens.

    ``order`` holds the streams' numbers in the order of storage and ``place`` is its inverse. In
    that order stream i has the slots from ``bounds[i]`` to ``bounds[i + 1]`` of the buffers, and
    ``used[i]`` of them hold entries.
    """

    def __init__(self, streams: Sequence[Stream]) -> None:
        kinds = [(stream.weight > 0, len(stream.positions)) for stream in streams]
        order = sorted(range(len(streams)), key=kinds.__getitem__)
        stored = [streams[number] for number in order]
        self.keys = torch.cat([stream.keys for stream in stored])
        self.values = torch.cat([stream.values for stream in stored])
        self.positions = torch.cat([stream.positions for stream in stored])
        self.order = torch.tensor(order, device=self.keys.device)
        self.place = self.order.argsort()
        self._weights = [stream.weight for stream in stored]
        self._log_weights = torch.tensor(self._weights, device=self.keys.device).clamp(min=1).log()
        #: Compensated or not, entries and streams of each block.
        self._blocks = [(*kind, len(list(same))) for kind, same in groupby(sorted(kinds))]
        self._room = 0
        self._lay_out()

    @property
    def tensors(self) -> list[Tensor]:
        """All that it holds: the buffers, free room and positions included, and their layout."""
        return [held for held in vars(self).values() if isinstance(held, Tensor)]

    @property
    def used(self) -> Int32[Tensor, " stream"]:
        """Entries of every stream, in the order of storage."""
        return self._ends[self.order].int() - self.bounds[:-1]

    @property
    def longest(self) -> int:
        """Entries of the longest stream."""
        return max(length for _, length, _ in self._blocks)

    @property
    def lengths(self) -> list[int]:
        """Entries of every stream."""
        stored = [length for _, length, count in self._blocks for _ in range(count)]
        return [stored[place] for place in self.place.tolist()]

    def blocks(self) -> Iterator[Block]:
        """All streams, block by block in the order of storage."""
        first = start = 0
        for compensated, length, count in self._blocks:
            stored, slots = slice(first, first + count), length + self._room
            stop = start + count * slots
            keys, values, positions = (
                buffer[start:stop].view(count, slots, *buffer.shape[1:])[:, :length]
                for buffer in (self.keys, self.values, self.positions)
            )
            yield Block(
                streams=self.order[stored],
                stored=stored,
                keys=keys,
                values=values,
                positions=positions,
                log_weights=self._log_weights[stored] if compensated else None,
            )
            first, start = stored.stop, stop

    def streams(self) -> list[Stream]:
        """What every stream holds."""
        stored = [
            Stream(keys=keys, values=values, positions=positions, weight=weight)
            for block in self.blocks()
            for keys, values, positions, weight in zip(
                block.keys, block.values, block.positions, self._weights[block.stored], strict=True
            )
        ]
        return [stored[place] for place in self.place.tolist()]

    def append(
        self,
        keys: Float[Tensor, "stream token head_dim"],
        values: Float[Tensor, "stream token value_dim"],
        position: int,
    ) -> None:
        """Add the same tokens to every stream; the first of them stands at ``position``."""
        tokens = keys.shape[1]
        # What was made under inference mode cannot be written to outside of it.
        locked = self.keys.is_inference() and not torch.is_inference_mode_enabled()
        if tokens > self._room or locked:
            self._make_room(tokens)
        new = torch.arange(tokens, device=keys.device)
        slots = (self._ends[:, None] + new).flatten()
        positions = (new + position).int().expand(len(keys), -1)
        self.keys.index_copy_(0, slots, keys.flatten(0, 1))
        self.values.index_copy_(0, slots, values.flatten(0, 1))
        self.positions.index_copy_(0, slots, positions.flatten())
        self._ends += tokens
        self._room -= tokens
        self._blocks = [(kind, length + tokens, count) for kind, length, count in self._blocks]

    def _make_room(self, tokens: int) -> None:
        """Lay the buffer out anew with room for ``tokens`` more, or a sixteenth if that is more."""
        before = list(self.blocks())
        streams = sum(count for _, _, count in self._blocks)
        entries = sum(length * count for _, length, count in self._blocks)
        self._room = max(tokens, math.ceil(entries / streams / _ROOM))
        slots = entries + streams * self._room
        self.keys = self.keys.new_empty(slots, self.keys.shape[1])
        self.values = self.values.new_empty(slots, self.values.shape[1])
        self.positions = self.positions.new_empty(slots)
        for old, new in zip(before, self.blocks(), strict=True):
            new.keys.copy_(old.keys)
            new.values.copy_(old.values)
            new.positions.copy_(old.positions)
        self._lay_out()

    def _lay_out(self) -> None:
        """Note where each stream starts and ends, after the streams before it and their room."""
        lengths = torch.tensor([length for _, length, count in self._blocks for _ in range(count)])
        stops = (lengths + self._room).cumsum(0)
        ends = (stops - self._room).to(self.keys.device)
        self.bounds = torch.nn.functional.pad(stops, (1, 0)).to(self.keys.device, torch.int32)
        self._ends = ends[self.place]

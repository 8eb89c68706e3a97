"""The prefix tree over prompts, which orders them so that a shared token is run once.

Sorted prompts are the tree's leaves from left to right, so visiting it depth first with one KV
cache means: crop the cache to the prefix that the next prompt shares with it, then run the rest. A
prompt's branch points are known beforehand. It is run in the same chunks whatever other prompts are
left to run, so its numbers do not depend on them, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt

from headprobe.prompts.prefix import common_prefix

# Prompts share whole blocks of tokens: a branch of fewer is not worth a forward pass of its own.
BLOCK = 16


@dataclass(frozen=True, kw_only=True)
class Visit:
    """A visit of the prompt with index ``prompt``, whose first ``shared`` tokens are cached.

    ``branch_points`` are the lengths, rising, at which any other prompt of the tree leaves its
    path.
    """

    prompt: int
    shared: int
    branch_points: tuple[int, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class PrefixTree:
    """Prompts in depth-first order.

    ``order`` holds indices of the prompts; ``shared[k]`` is the number of tokens that the k-th
    prompt in this order shares with the previous one, in whole blocks and never the last token;
    ``lengths`` counts the prompts' tokens in this order.
    """

    order: Int[np.ndarray, " prompt"]
    shared: Int[np.ndarray, " prompt"]
    lengths: Int[np.ndarray, " prompt"]

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]]) -> PrefixTree:
        """Build the tree over some prompts."""
        # Big-endian numbers sort in the same order as their bytes.
        keys = [np.asarray(prompt, dtype=">u4") for prompt in prompts]
        order = sorted(range(len(keys)), key=lambda i: keys[i].tobytes())
        before = zip([order[0], *order], order, strict=False)
        shared = [0, *(_shared(keys[i], keys[j]) for i, j in list(before)[1:])]
        return cls(
            order=np.array(order),
            shared=np.array(shared),
            lengths=np.array([len(keys[i]) for i in order]),
        )

    @property
    def unique_tokens(self) -> int:
        """The number of tokens that are run if every prompt is visited."""
        return int((self.lengths - self.shared).sum())

    def visits(self, wanted: Iterable[int]) -> Iterator[Visit]:
        """Yield visits of the wanted prompts in depth-first order."""
        chosen = set(wanted)
        before = None
        for place in range(len(self.order)):
            if self.order[place] in chosen:
                shared = 0 if before is None else int(self.shared[before + 1 : place + 1].min())
                prompt = int(self.order[place])
                yield Visit(prompt=prompt, shared=shared, branch_points=self._branch_points(place))
                before = place

    def _branch_points(self, place: int) -> tuple[int, ...]:
        """List every number of tokens that a prompt shares with another one, ascending."""
        left = np.minimum.accumulate(self.shared[place:0:-1])
        right = np.minimum.accumulate(self.shared[place + 1 :])
        found: list[int] = np.unique(np.concatenate([left, right])).tolist()
        return tuple(point for point in found if point)

    def shards(self, count: int) -> list[list[int]]:
        """Split the prompts into ``count`` shards of about equal unique-token count.

        A shard is a few whole subtrees: it ends where the next prompt shares the shortest prefix,
        near the place that an even split of the tokens would give.
        """
        spent = np.cumsum(self.lengths - self.shared)
        slack = 0.1 * spent[-1] / count
        ends = [0]
        for shard in range(1, count):
            even = shard * spent[-1] / count
            near = np.flatnonzero(np.abs(spent[:-1] - even) <= slack) + 1
            near = near[near > ends[-1]]
            if near.size:
                ends.append(int(near[self.shared[near].argmin()]))
            else:
                ends.append(max(ends[-1], int(np.searchsorted(spent, even))))
        bounds = zip(ends, [*ends[1:], len(self.order)], strict=True)
        return [self.order[start:stop].tolist() for start, stop in bounds]


def _shared(one: UInt[np.ndarray, " one"], other: UInt[np.ndarray, " other"]) -> int:
    """Count the tokens that two prompts share at their start, in whole blocks, never the last."""
    return min(common_prefix(one, other), len(one) - 1, len(other) - 1) // BLOCK * BLOCK

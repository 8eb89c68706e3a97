"""The prefix tree over prompts, which orders them so that a shared token is run once.

Sorted prompts are the tree's leaves from left to right, so visiting it depth first with one KV
cache means: crop the cache to the prefix that the next prompt shares with it, then run the rest.
Prompts that leave a common path after some of its tokens each, and soon end, are its tails: they
can be run together. Paths and the places where others leave them are known beforehand. They are
run in the same chunks whatever other prompts are left to run, and a path's tails always together,
so a prompt's numbers do not depend on the rest, bit for bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt

# Prompts share whole blocks of tokens: a branch of fewer is not worth a forward pass of its own.
BLOCK = 16
# A tail of more tokens gains little from sharing its forward pass, and is a path of its own.
LONGEST_TAIL = 512


@dataclass(frozen=True, kw_only=True)
class Tail:
    """The prompt with index ``prompt``, which leaves its path after ``start`` tokens."""

    prompt: int
    start: int


@dataclass(frozen=True, kw_only=True)
class Path:
    """The first ``length`` tokens of the prompt ``prompt``, and the ``tails`` that leave them.

    The first ``shared`` tokens are cached. ``branch_points`` are the lengths, rising, after which
    any other path of the tree leaves this one.
    """

    prompt: int
    length: int
    shared: int
    branch_points: tuple[int, ...]
    tails: tuple[Tail, ...]


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
        shared = [0, *(_shared(keys[i], keys[j]) for i, j in itertools.pairwise(order))]
        return cls(
            order=np.array(order),
            shared=np.array(shared),
            lengths=np.array([len(keys[i]) for i in order]),
        )

    @property
    def unique_tokens(self) -> int:
        """The number of tokens that are run if every prompt is visited."""
        return int((self.lengths - self.shared).sum())

    def paths(self, wanted: Iterable[int], *, packed: bool = True) -> Iterator[Path]:
        """Yield in depth-first order the paths that have wanted prompts among their tails.

        Args:
            wanted: indices of prompts. Other tails of their paths are yielded too.
            packed: run several tails on one path; otherwise each prompt has a path of its own.
        """
        chosen = set(wanted)
        groups = self.groups() if packed else [range(k, k + 1) for k in range(len(self.order))]
        spines = np.array([self._spine(group) for group in groups])
        before = None
        for group, spine in zip(groups, spines.tolist(), strict=True):
            if chosen.isdisjoint(self.order[group.start : group.stop].tolist()):
                continue
            shared = 0 if before is None else self._common(before, spine)
            yield self._path(group, spine, shared, spines)
            before = spine

    def groups(self) -> list[range]:
        """Split the order into groups of prompts that are the tails of one path.

        A prompt belongs with the neighbour with which it shares most. So within a group what
        neighbours share rises up to the path's own prompt and falls after it, no other group shares
        more with a tail than the path does, and every shared token is run once.
        """
        left, right = self.shared, np.append(self.shared[1:], 0)
        joined = (self.shared > 0) & ((left >= right) | np.roll(right > left, 1))
        groups = _runs(~joined)
        return [part for group in groups for part in self._without_long(group)]

    def shards(self, count: int) -> list[list[int]]:
        """Split the prompts into ``count`` shards of about equal unique-token count.

        A shard is a few whole subtrees: it ends where the next prompt shares the shortest prefix,
        near the place that an even split of the tokens would give. Tails of one path stay together
        where a path ends near that place.
        """
        spent = np.cumsum(self.lengths - self.shared)
        slack = 0.1 * spent[-1] / count
        starts = np.array([group.start for group in self.groups()])
        ends = [0]
        for shard in range(1, count):
            even = shard * spent[-1] / count
            near = starts[1:][np.abs(spent[starts[1:] - 1] - even) <= slack]
            near = near[near > ends[-1]]
            if near.size:
                ends.append(int(near[self.shared[near].argmin()]))
            else:
                ends.append(max(ends[-1], int(np.searchsorted(spent, even))))
        bounds = zip(ends, [*ends[1:], len(self.order)], strict=True)
        return [self.order[start:stop].tolist() for start, stop in bounds]

    def _without_long(self, group: range) -> Iterator[range]:
        """Split off prompts whose tails are too long to share a forward pass."""
        spine = self._spine(group)
        long = [self.lengths[k] - self._most_shared(k) > LONGEST_TAIL for k in group]
        alone = [is_long and k != spine for k, is_long in zip(group, long, strict=True)]
        for part in _runs(np.array(alone) | np.roll(alone, 1)):
            yield range(group.start + part.start, group.start + part.stop)

    def _path(
        self, group: range, spine: int, shared: int, spines: Int[np.ndarray, " path"]
    ) -> Path:
        left = np.minimum.accumulate(self.shared[spine:0:-1])[::-1]
        right = np.minimum.accumulate(self.shared[spine + 1 :])
        common = np.concatenate([left, [0], right])
        points = [point for point in np.unique(common[spines]).tolist() if point]
        if len(group) == 1:
            length = max(points, default=0)
        else:
            own = (int(self.lengths[spine]) - 1) // BLOCK * BLOCK
            length = max(self._most_shared(spine), own)
        common[spine] = length
        return Path(
            prompt=int(self.order[spine]),
            length=length,
            shared=shared,
            branch_points=tuple(points),
            tails=tuple(Tail(prompt=int(self.order[k]), start=int(common[k])) for k in group),
        )

    def _spine(self, group: range) -> int:
        """Return the place in the order of the prompt that a group's path belongs to."""
        return max(group, key=lambda k: (self._most_shared(k), self.lengths[k]))

    def _most_shared(self, k: int) -> int:
        """Return the most tokens that the k-th prompt in the order shares with any other one."""
        return int(max(self.shared[k : k + 2]))

    def _common(self, one: int, other: int) -> int:
        """Return the number of tokens that two prompts share, given by places in the order."""
        first, last = sorted((one, other))
        return int(self.shared[first + 1 : last + 1].min())


def _runs(starts: np.ndarray) -> list[range]:
    """Split places into runs, one from each true place of ``starts`` on; the first starts one."""
    begins = [0, *(np.flatnonzero(starts[1:]) + 1).tolist()]
    return [range(a, b) for a, b in zip(begins, [*begins[1:], len(starts)], strict=True)]


def _shared(one: UInt[np.ndarray, " one"], other: UInt[np.ndarray, " other"]) -> int:
    """Count the tokens that two prompts share at their start, in whole blocks, never the last."""
    most = min(len(one), len(other))
    apart = np.flatnonzero(one[:most] != other[:most])
    common = int(apart[0]) if apart.size else most
    return min(common, most - 1) // BLOCK * BLOCK

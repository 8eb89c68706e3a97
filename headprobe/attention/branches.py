"""Place the tokens of several texts in one KV cache, as branches of the path that they share.

The texts' common beginning, the path, is branch 0. Each other branch leaves its parent after some
tokens and sees its own tokens and what its ancestors hold up to there. So one forward pass can run
the branches of many texts, each as if it were alone: a mask hides the others, and position ids say
where a token stands in its own text (tree attention, as in SpecInfer, arXiv 2305.09781).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

PATH = 0
_ALL = 2**31 - 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Layout:
    """The places of a forward pass's tokens, and of all keys that the KV cache then holds.

    ``positions`` and ``keys`` are positions in a token's own text; ``visible`` is true where the
    key belongs to the text of the query. Causality and sliding windows are not part of it.
    """

    positions: Int[Tensor, "sequence query"]
    keys: Int[Tensor, "sequence key"]
    visible: Bool[Tensor, "sequence query key"]

    @classmethod
    def batch(cls, layouts: Sequence[Layout]) -> Layout:
        """Return the layout of several sequences, whose tokens and keys are equally many."""
        return cls(
            positions=torch.cat([layout.positions for layout in layouts]),
            keys=torch.cat([layout.keys for layout in layouts]),
            visible=torch.cat([layout.visible for layout in layouts]),
        )


class Branches:
    """The branches in a KV cache that holds a path.

    Args:
        length: the tokens of the path, which are the cache's first entries.
        device: the device of the layouts.
    """

    def __init__(self, length: int, device: torch.device) -> None:
        self._length = length
        self._device = device
        # Of each branch: the branches that it sees, each up to a position, exclusive.
        self._limits: list[dict[int, int]] = [{PATH: length}]
        self._entries: list[tuple[int, int]] = []
        self._keys: dict[int, Int[Tensor, " key"]] = {}
        self.is_plain = True
        """True as long as every token follows all tokens before it, as in a single text."""

    def add(self, parent: int, start: int) -> int:
        """Add a branch that leaves its parent at the position ``start``; return its number."""
        seen = {branch: min(limit, start) for branch, limit in self._limits[parent].items()}
        self._limits.append(seen | {len(self._limits): _ALL})
        return len(self._limits) - 1

    def place(self, branches: Sequence[int], positions: Sequence[int]) -> None:
        """Place tokens after the cache's entries, each at a position of its branch's text."""
        for branch, position in zip(branches, positions, strict=True):
            entry = self._length + len(self._entries)
            before = self._entries[-1][0] if self._entries else PATH
            self.is_plain &= position == entry and self._limits[branch].get(before, 0) >= entry
            self._entries.append((branch, position))
        self._keys.clear()

    def pad(self, count: int) -> None:
        """Place tokens that no branch sees."""
        if count:
            self.is_plain = False
            self.place([self.add(PATH, 0)] * count, range(count))

    def layout(self, count: int) -> Layout:
        """Return the layout of a forward pass that reads the ``count`` newest tokens."""
        branch, position = torch.tensor(self._entries, device=self._device).T
        limits = torch.tensor(
            [
                [self._limits[of].get(other, 0) for other in range(len(self._limits))]
                for of, _ in self._entries[-count:]
            ],
            dtype=torch.int32,
            device=self._device,
        )
        path = torch.arange(self._length, device=self._device)
        on_path, on_branches = path < limits[:, :1], position < limits[:, branch]
        return Layout(
            positions=position[None, -count:],
            keys=torch.cat([path, position])[None],
            visible=torch.cat([on_path, on_branches], dim=1)[None],
        )

    def path_limit(self, branch: int) -> int:
        """Return the number of the path's tokens that a branch sees."""
        return self._limits[branch][PATH]

    def keys(self, branch: int) -> Int[Tensor, " key"]:
        """Return the entries of a branch's text, in the order of their positions."""
        if branch not in self._keys:
            limits = self._limits[branch]
            own = sorted(
                (position, self._length + entry)
                for entry, (other, position) in enumerate(self._entries)
                if position < limits.get(other, 0)
            )
            entries = [*range(limits[PATH]), *(entry for _, entry in own)]
            self._keys[branch] = torch.tensor(entries, device=self._device)
        return self._keys[branch]

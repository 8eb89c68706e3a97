"""Compress one layer's heads to targets: rank entries once for all targets, in few calls."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Int, Int32, Int64
from torch import Tensor

from headprobe.compression.compensation import compensate
from headprobe.compression.entries import COMPENSATION
from headprobe.compression.held import Held
from headprobe.compression.layer_view import Evidence, LayerView
from headprobe.compression.ragged import Ragged
from headprobe.compression.ranking import Ranking, rank, select
from headprobe.compression.selections import get_selection
from headprobe.compression.sharing import share
from headprobe.compression.slots import storage_order
from headprobe.compression.target import Rule, Target

_MOST_CHOICES = 2**24
"""The most entries, over all choices, that are looked at in one go."""


class Evictor:
    """The compressions of one layer's sequences, each sequence to any number of targets.

    Args:
        layer: the layer's index.
        held: what the heads of all sequences hold.
        visible: the tokens that the newest query of each sequence sees; ``None`` is all.
        tokens: the number of tokens of each sequence, padding included.
        sequences: the number of sequences.
        evidence: what was seen of the layer besides.
    """

    def __init__(
        self,
        layer: int,
        held: Held,
        visible: Bool[Tensor, "sequence token"] | None,
        *,
        tokens: int,
        sequences: int,
        evidence: Evidence,
    ) -> None:
        self._layer = layer
        self._held = held
        self._evidence = evidence
        self._sequences = sequences
        self._device = held.keys.device
        self._heads = len(held.source) // sequences
        self._tokens = [tokens] * sequences
        self._slots: Int64[Tensor, "head_entries key"] | None = None
        counts = [held.keys.shape[1]] * len(held.source)
        if visible is not None or not held.is_whole:
            there = held.seen(visible, tokens=tokens)
            if visible is not None:
                self._tokens = visible.sum(dim=1).tolist()
            counts = there.sum(dim=1).tolist()
            self._slots = _first_columns(there, max(counts))
        self._counts = np.array(counts)
        self._count = torch.tensor(counts, device=self._device)
        self._rankings: dict[Rule, Ranking] = {}

    def compress(self, pairs: Sequence[tuple[int, Target]]) -> Ragged:
        """Collect what every head keeps of some sequences, each compressed to its paired target.

        Nothing that is held is changed.
        """
        sequences = np.array([sequence for sequence, _ in pairs])
        heads = (sequences[:, None] * self._heads + np.arange(self._heads)).flatten()
        targets = [target for _, target in pairs]
        sizes = self._sizes(pairs).flatten()
        compensated = np.repeat([t.budgets.compensation for t in targets], self._heads)
        dropped = np.array(self._held.weights)[heads] + self._counts[heads] - sizes
        weights = np.where(compensated, dropped, 0)
        stored = sizes + (weights > 0)
        order = np.array(storage_order(stored.tolist(), weights.tolist(), device=self._device))
        kept = self._keep(pairs, heads, sizes, order)
        entries = self._entries(kept, heads[order])
        held, extra = self._held, weights[order] > 0
        buffers = [
            held.keys.flatten(0, 1).index_select(0, entries),
            held.values.flatten(0, 1).index_select(0, entries),
            self._positions(entries),
        ]
        if extra.any():
            means = self._means(kept, heads[order], extra)
            buffers = _put_first(buffers, means, sizes[order], extra)
        return Ragged(
            *buffers,
            sizes=stored[order].tolist(),
            weights=weights[order].tolist(),
            order=order.tolist(),
        )

    def _sizes(self, pairs: Sequence[tuple[int, Target]]) -> Int[np.ndarray, "pair head"]:
        """Work out how many entries every head keeps, at most all that it has."""
        sizes = np.stack([target.budgets.kept(self._tokens[n])[self._layer] for n, target in pairs])
        shared: dict[tuple[int, Rule], list[int]] = {}
        for at, (sequence, target) in enumerate(pairs):
            if target.floor is not None:
                shared.setdefault((sequence, target.shared_rule), []).append(at)
        for (sequence, rule), own in shared.items():
            ranking = self.ranking(rule)
            heads = slice(sequence * self._heads, (sequence + 1) * self._heads)
            floors = np.array([pairs[at][1].floor for at in own], dtype=np.float64)
            found = share(
                self._tensor(sizes[own]),
                self._tensor(floors),
                ranking.worth[heads],
                ranking.counts[heads],
                always=rule.window + rule.sinks,
            )
            sizes[own] = found.cpu().numpy()
        sequences = [sequence for sequence, _ in pairs]
        most = self._counts.reshape(-1, self._heads)[sequences]
        fitting: Int[np.ndarray, "pair head"] = np.minimum(sizes, most)
        return fitting

    def _keep(
        self,
        pairs: Sequence[tuple[int, Target]],
        heads: Int[np.ndarray, " choice"],
        sizes: Int[np.ndarray, " choice"],
        order: Int[np.ndarray, " choice"],
    ) -> Bool[Tensor, "choice key"]:
        """Mark the entries that are kept, in the order of storage."""
        rules = [
            Rule.of(target, name)
            for _, target in pairs
            for name in target.budgets.selection[self._layer].tolist()
        ]
        known = list(dict.fromkeys(rules))
        rule_of = np.array([known.index(rule) for rule in rules])[order]
        keys = int(self._counts.max(initial=0))
        kept = torch.zeros(len(order), keys, dtype=torch.bool, device=self._device)
        step = max(1, _MOST_CHOICES // max(keys, 1))
        for number, rule in enumerate(known):
            own = np.flatnonzero(rule_of == number)
            is_whole = bool((sizes == self._counts[heads])[order[own]].all())
            ranking = None if is_whole else self.ranking(rule)
            for start in range(0, len(own), step):
                part = own[start : start + step]
                head = self._tensor(heads[order[part]])
                chosen = self._tensor(sizes[order[part]])
                kept[self._tensor(part)] = self._select(ranking, head, chosen, rule, keys)
        return kept

    def _select(
        self,
        ranking: Ranking | None,
        head: Int64[Tensor, " choice"],
        sizes: Int64[Tensor, " choice"],
        rule: Rule,
        keys: int,
    ) -> Bool[Tensor, "choice key"]:
        """Choose entries of some heads; without a ranking they keep all."""
        if ranking is None:
            column = torch.arange(keys, device=self._device)
            return column < self._count[head][:, None]
        return select(
            self._count[head],
            sizes,
            ranking.rank[head],
            window=rule.window,
            sinks=rule.sinks,
            first=None if ranking.first is None else ranking.first[head],
        )

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(values).to(self._device)

    def ranking(self, rule: Rule) -> Ranking:
        """Rank the entries of all heads, one sequence's after another's, by a rule."""
        if rule not in self._rankings:
            view = LayerView(
                self._held,
                self._evidence,
                slots=self._slots,
                counts=self._count,
                sequences=self._sequences,
                window=rule.window,
                reduction=rule.reduction,
            )
            scores = get_selection(rule.selection).score(view)
            self._rankings[rule] = rank(scores, self._count, window=rule.window, sinks=rule.sinks)
        return self._rankings[rule]

    def _entries(
        self, kept: Bool[Tensor, "choice key"], heads: Int[np.ndarray, " choice"]
    ) -> Int64[Tensor, " slot"]:
        """Locate the kept entries among the rows' entries, one row after another."""
        choice, place = kept.nonzero(as_tuple=True)
        head = self._tensor(heads)[choice]
        if self._slots is not None:
            place = self._slots[head, place]
        return self._held.source[head] * self._held.keys.shape[1] + place

    def _positions(self, entries: Int64[Tensor, " slot"]) -> Int32[Tensor, " slot"]:
        positions = self._held.positions
        if len(positions) == 1:
            entries = entries % positions.shape[1]
        return positions.flatten().index_select(0, entries)

    def _means(
        self,
        kept: Bool[Tensor, "choice key"],
        heads: Int[np.ndarray, " choice"],
        extra: Bool[np.ndarray, " choice"],
    ) -> list[Tensor]:
        """Compute the compensation entries of some choices: keys, values, positions."""
        held = self._held
        choices = np.flatnonzero(extra)
        head = self._tensor(heads[choices])
        key = torch.arange(kept.shape[1], device=self._device)
        dropped = (~kept[self._tensor(choices)] & (key < self._count[head][:, None])).float()
        if self._slots is not None:
            whole = dropped.new_zeros(len(head), held.keys.shape[1])
            dropped = whole.scatter_add(1, self._slots[head], dropped)
        rows = held.source[head]
        weights = torch.tensor(held.weights, device=self._device)[head]
        found = [whole.new_empty(len(head), whole.shape[2]) for whole in (held.keys, held.values)]
        for row in sorted(set(rows.tolist())):
            own = rows == row
            for mean, whole in zip(found, (held.keys, held.values), strict=True):
                former = whole[row, :1].expand(int(own.sum()), -1)
                mean[own] = compensate(whole[row], dropped[own], former, weights[own])
        return [*found, held.positions.new_full((len(head),), COMPENSATION)]


def _first_columns(
    there: Bool[Tensor, "row column"], columns: int
) -> Int64[Tensor, "row _columns"]:
    """List the true columns of each row in order, filled up with the first column."""
    row, column = there.nonzero(as_tuple=True)
    found = torch.zeros(len(there), columns, dtype=torch.int64, device=there.device)
    found[row, there.cumsum(dim=1)[row, column] - 1] = column
    return found


def _put_first(
    buffers: Sequence[Tensor],
    first: Sequence[Tensor],
    sizes: Int[np.ndarray, " choice"],
    extra: Bool[np.ndarray, " choice"],
) -> list[Tensor]:
    """Insert one entry before the entries of each choice that has an extra one."""
    starts = np.cumsum(sizes + extra) - (sizes + extra)
    head_starts = torch.from_numpy(starts[extra])
    total = int((sizes + extra).sum())
    others = torch.ones(total, dtype=torch.bool)
    others[head_starts] = False
    device = buffers[0].device
    where, others = head_starts.to(device), others.nonzero().flatten().to(device)
    whole = []
    for buffer, one in zip(buffers, first, strict=True):
        new = buffer.new_empty(total, *buffer.shape[1:])
        whole.append(new.index_copy_(0, others, buffer).index_copy_(0, where, one))
    return whole

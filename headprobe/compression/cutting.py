"""One layer's streams cut to targets; a stream is ranked once, however many targets there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from headprobe.compression.compensation import compensate
from headprobe.compression.ragged import COMPENSATION, Stream
from headprobe.compression.selection import Ranking, rank, select
from headprobe.compression.sharing import Target, share
from headprobe.errors import HeadprobeError

REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "mean": torch.mean,
    "max": torch.amax,
    "sum": torch.sum,
}
Attention = Callable[[int, int, str], Float32[Tensor, " key"]]
"""Of a stream's number, a window and a reduction: the attention to every entry of the stream."""


def reduction_of(target: Target) -> str:
    """How the query heads that share a KV head choose together.

    Raises:
        HeadprobeError: the budget names a reduction that is not known.
    """
    name = str(target.budgets.strategy.get("reduce") or "mean")
    if name not in REDUCTIONS:
        known = ", ".join(REDUCTIONS)
        raise HeadprobeError(f"the budget reduces scores by {name!r}; known are {known}")
    return name


class Cutter:
    """Cuts sequences of one layer, each as often as wanted.

    Args:
        layer: its index.
        streams: all of them, sequence by sequence.
        visible: the tokens that the newest query of each sequence sees.
        attention: what the newest queries give to the entries.
    """

    def __init__(
        self,
        layer: int,
        streams: Sequence[Stream],
        visible: Bool[Tensor, "sequence token"],
        attention: Attention,
    ) -> None:
        self._layer = layer
        self._streams = streams
        self._visible = visible
        self._attention = attention
        self._heads = len(streams) // len(visible)
        self._entries = [
            _entries(stream, visible[number // self._heads])
            for number, stream in enumerate(streams)
        ]
        self._rankings: dict[tuple[int, int, int, str], Ranking] = {}

    def cut(self, sequence: int, target: Target) -> list[Stream]:
        """What every head of a sequence keeps; the streams stay as they are."""
        budgets = target.budgets
        own = range(sequence * self._heads, (sequence + 1) * self._heads)
        grants = budgets.kept(int(self._visible[sequence].sum()))[self._layer].tolist()
        if target.floor is not None:
            rankings = [self._ranking(number, target) for number in own]
            always = budgets.window + budgets.sinks
            grants = share(grants, rankings, always=always, floor=target.floor)
        return [
            self._shorten(number, grant, str(selection), target)
            for number, grant, selection in zip(
                own, grants, budgets.selection[self._layer], strict=True
            )
        ]

    def _shorten(self, number: int, kept: int, selection: str, target: Target) -> Stream:
        stream, entries = self._streams[number], self._entries[number]
        ranking = None
        if selection == "attention" and kept < len(entries):
            ranking = self._ranking(number, target)
        budgets = target.budgets
        chosen = select(entries, kept, window=budgets.window, sinks=budgets.sinks, ranking=ranking)
        return _take(stream, entries, chosen, compensation=budgets.compensation)

    def _ranking(self, number: int, target: Target) -> Ranking:
        budgets, reduction = target.budgets, reduction_of(target)
        rule = number, budgets.window, budgets.sinks, reduction
        if rule not in self._rankings:
            attention = self._attention(number, budgets.window, reduction)
            self._rankings[rule] = rank(
                attention[self._entries[number]], window=budgets.window, sinks=budgets.sinks
            )
        return self._rankings[rule]


def _entries(stream: Stream, allowed: Bool[Tensor, " token"]) -> Int64[Tensor, " key"]:
    """Places of the stream's tokens that can still be seen."""
    first = int(stream.weight > 0)
    return allowed[stream.positions[first:].long()].nonzero().flatten() + first


def _take(
    stream: Stream,
    entries: Int64[Tensor, " key"],
    chosen: Int64[Tensor, " kept"],
    *,
    compensation: bool,
) -> Stream:
    """The chosen of a stream's entries, and what stands for the others if it is wanted."""
    keys, values, positions = (
        whole[chosen] for whole in (stream.keys, stream.values, stream.positions)
    )
    weight = stream.weight + len(entries) - len(chosen)
    if not compensation or not weight:
        return Stream(keys=keys, values=values, positions=positions)
    dropped = torch.zeros_like(stream.positions, dtype=torch.bool)
    dropped[entries], dropped[chosen] = True, False
    key, value = (
        compensate(whole[dropped], whole[:1], stream.weight)
        for whole in (stream.keys, stream.values)
    )
    return Stream(
        keys=torch.cat([key, keys]),
        values=torch.cat([value, values]),
        positions=torch.cat([positions.new_full((1,), COMPENSATION), positions]),
        weight=weight,
    )

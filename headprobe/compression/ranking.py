"""Rank the entries of heads by what they are worth, and choose the first of each head.

All heads are ranked in one sort, and whatever a budget leaves them is a prefix of that order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from headprobe.compression.layer_view import EntryScores


@dataclass(frozen=True, eq=False, kw_only=True)
class Ranking:
    """The entries of some heads between each head's oldest and newest, those worth most first.

    ``rank`` is each entry's place in its head's order; entries that are not ranked come last.
    ``worth`` is that of the ranked, in their order, and minus infinity after them. ``counts`` says
    how many are ranked. With ``first`` half of what is chosen is chosen by that rank.
    """

    rank: Int64[Tensor, "head_entries key"]
    worth: Float32[Tensor, "head_entries key"]
    counts: Int64[Tensor, " head_entries"]
    first: Int64[Tensor, "head_entries key"] | None = None


def rank(
    scores: EntryScores,
    counts: Int64[Tensor, " head_entries"],
    *,
    window: int,
    sinks: int,
) -> Ranking:
    """Rank the entries after the ``sinks`` oldest and before the ``window`` newest.

    Of each head the first ``counts`` columns are entries.
    """
    key = torch.arange(scores.worth.shape[1], device=counts.device)
    stop = (counts - window).clamp(min=0)[:, None]
    unranked = (key < sinks) | (key >= stop)
    ties = None if scores.ties is None else scores.ties.masked_fill(unranked, -torch.inf)
    worth, order = _in_order(scores.worth.masked_fill(unranked, -torch.inf), ties)
    first = None
    if scores.first is not None:
        first = _places(_in_order(scores.first.masked_fill(unranked, -torch.inf), ties)[1])
    return Ranking(
        rank=_places(order),
        worth=worth,
        counts=(stop[:, 0] - sinks).clamp(min=0),
        first=first,
    )


def _in_order(
    worth: Float32[Tensor, "head_entries key"], ties: Float32[Tensor, "head_entries key"] | None
) -> tuple[Float32[Tensor, "head_entries key"], Int64[Tensor, "head_entries key"]]:
    """Sort entries, the highest first, equal ones by ``ties`` and then the older first."""
    if ties is None:
        ordered = worth.sort(dim=1, descending=True, stable=True)
        return ordered.values, ordered.indices
    by_ties = ties.argsort(dim=1, descending=True, stable=True)
    found, by_worth = worth.gather(1, by_ties).sort(dim=1, descending=True, stable=True)
    return found, by_ties.gather(1, by_worth)


def _places(order: Int64[Tensor, "row key"]) -> Int64[Tensor, "row key"]:
    """Return the place of each column in its row's order."""
    place = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, place)


def select(
    counts: Int64[Tensor, " choice"],
    sizes: Int64[Tensor, " choice"],
    rank: Int64[Tensor, "choice key"],
    *,
    window: int,
    sinks: int,
    first: Int64[Tensor, "choice key"] | None = None,
) -> Bool[Tensor, "choice key"]:
    """Choose ``sizes`` of the first ``counts`` entries of a head; all where there are no more.

    The ``window`` newest come first, as far as the size reaches, then the ``sinks`` oldest, then
    the first in ``rank`` by that window and these sinks: half of them, rounded down, by ``first``
    where it is given.
    """
    sizes = torch.minimum(sizes, counts)
    newest = sizes.clamp(max=window)
    oldest = (sizes - newest).clamp(max=sinks)
    ranked = (sizes - newest - oldest)[:, None]
    newest = torch.where(sizes == counts, counts, newest)
    key = torch.arange(rank.shape[1], device=rank.device)
    kept = (key >= (counts - newest)[:, None]) | (key < oldest[:, None])
    if first is None:
        kept |= rank < ranked
    else:
        early = first < ranked // 2
        # The places of the other entries among themselves.
        order = rank.argsort(dim=1)
        place = torch.empty_like(rank).scatter_(1, order, (~early).gather(1, order).cumsum(dim=1))
        kept |= early | (~early & (place <= ranked - ranked // 2))
    return kept & (key < counts[:, None])

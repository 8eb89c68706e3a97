"""Gather how much of the answer's attention the entries hold that a cache keeps first (LU-KV).

At a cut the newest queries put a KV head's entries in order, as selection ``attention`` does: the
earlier ones that are attended most come first. An answer's query gains the attention that it pays
to the first of them (arXiv 2602.08585). A prompt is cut twice: at its end, where the question is
known, and before its question. Of the rows only the orders are kept, and the gains of each step.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float32, Int32, Int64
from torch import Tensor
from torch.nn.functional import max_pool1d, pad

from headprobe.compression.layer_view import POOL_KERNEL, EntryScores
from headprobe.compression.ranking import rank
from headprobe.prompts.case import Case
from headprobe.runs.shared_prefixes import cuts_of
from headprobe.scores.utility import FRACTIONS, WINDOW


class CaseUtility:
    """The gains of one case, layer by layer, from its attention rows as they come.

    Args:
        case: the case, which has a question.
        kv_heads: the number of KV heads of a layer.
    """

    def __init__(self, case: Case, kv_heads: int) -> None:
        self._kv_heads = kv_heads
        self._windows = [range(max(0, end - WINDOW), end) for end in cuts_of(case)]
        self._attended: dict[tuple[int, int], Tensor] = {}
        self._orders: dict[tuple[int, int], Int32[Tensor, "kv_head older"]] = {}

    def watch(
        self, layer: int, weights: Float32[Tensor, "query_head query key"], position: int
    ) -> None:
        """Take the next rows, from ``position`` on; the newest before a cut settle its order."""
        for cut, window in enumerate(self._windows):
            first = max(position, window.start)
            stop = min(position + weights.shape[1], window.stop)
            if first >= stop:
                continue
            rows = weights[:, first - position : stop - position, : window.start]
            attended = self._by_kv_head(rows).sum(dim=1) + self._attended.pop((cut, layer), 0)
            if stop == window.stop:
                self._orders[cut, layer] = in_order(attended).int()
            else:
                self._attended[cut, layer] = attended

    def gains(
        self, layer: int, weights: Float32[Tensor, "query_head step key"]
    ) -> Float32[Tensor, "cut kv_head step fraction"]:
        """Return what each step of the answer gains by each fraction of the earlier entries."""
        found = []
        for cut, window in enumerate(self._windows):
            rows = self._by_kv_head(weights[..., : window.start])
            found.append(gains_of(rows, self._orders[cut, layer].long()))
        return torch.stack(found)

    def _by_kv_head(
        self, weights: Float32[Tensor, "query_head query older"]
    ) -> Float32[Tensor, "kv_head query older"]:
        """Return the mean attention of the query heads that share a KV head."""
        query_heads, *size = weights.shape
        group = query_heads // self._kv_heads
        return weights.reshape(self._kv_heads, group, *size).mean(dim=1)


def in_order(
    attended: Float32[Tensor, "kv_head older"],
) -> Int64[Tensor, "kv_head older"]:
    """Sort entries by pooled attention, ties by their own, then the older first (SnapKV)."""
    heads, older = attended.shape
    pooled = max_pool1d(attended, POOL_KERNEL, stride=1, padding=POOL_KERNEL // 2)
    counts = torch.full((heads,), older, device=attended.device)
    ranked = rank(EntryScores(worth=pooled, ties=attended), counts, window=0, sinks=0)
    return ranked.rank.argsort(dim=1)


def gains_of(
    weights: Float32[Tensor, "kv_head step older"], order: Int64[Tensor, "kv_head older"]
) -> Float32[Tensor, "kv_head step fraction"]:
    """Return the attention on each fraction of the entries in order, beyond the last fraction.

    An entry that a fraction cuts through counts in proportion.
    """
    heads, steps, older = weights.shape
    if not older:
        return weights.new_zeros(heads, steps, len(FRACTIONS))
    ordered = weights.gather(2, order[:, None].expand_as(weights))
    held = pad(ordered.cumsum(dim=2), (1, 0))
    entries = FRACTIONS * older
    whole = np.minimum(np.floor(entries), older - 1).astype(np.int64)
    first = torch.from_numpy(whole).to(weights.device)
    part = torch.from_numpy(entries - whole).to(held)
    curve = torch.lerp(held[..., first], held[..., first + 1], part)
    # Interpolation may round a flat part down.
    return pad(curve, (1, 0)).diff(dim=-1).clamp(min=0)


def mean_gains(
    layers: int, steps: list[dict[int, Tensor]], counted: slice
) -> Float[np.ndarray, "cut layer kv_head fraction"]:
    """Average the gains of an answer's counted steps, given in pieces by layer (float16).

    Layers without attention gain nothing.
    """
    [first, *_] = steps[0].values()
    cuts, heads, _, fractions = first.shape
    mean = np.zeros((cuts, layers, heads, fractions), dtype=np.float16)
    for layer in steps[0]:
        own = torch.cat([part[layer] for part in steps], dim=2)[:, :, counted]
        mean[:, layer] = own.double().mean(dim=2).nan_to_num().cpu().numpy()
    return mean

"""Expected Attention (kvpress): the attention that the queries to come are expected to pay.

Queries before their rotation are taken as normally distributed, with the mean and covariance of the
queries seen. Rotated to the positions ahead, with mean m and covariance C, a query gives key k the
expected weight exp(s m k + s^2 k C k / 2), s the scaling; normalised over the entries, the mean of
the group, times the length of the value.
"""

from __future__ import annotations

import torch

from headprobe.compression.layer_view import EntryScores, LayerView
from headprobe.compression.query_moments import SINKS
from headprobe.compression.selections._selection import Selection

AHEAD = 512
"""Positions ahead over which the rotation is averaged."""


def score(view: LayerView) -> EntryScores:
    """Score entries by expected attention times |v|; the first tokens before all others.

    A soft cap of the logits is left out: with it the expectation has no closed form.
    """
    queries = view.evidence.queries
    if queries is None:
        raise view.needed("the queries of the whole context")
    mean, covariance = queries.ahead(tokens=view.evidence.tokens, positions=AHEAD)
    heads, scaling = len(view.counts), view.evidence.scaling
    mean = mean.reshape(heads, -1, mean.shape[-1])
    covariance = covariance.reshape(heads, -1, *covariance.shape[-2:])
    keys = view.keys.float()
    padding = queries.padding.repeat_interleave(heads // view.sequences)
    first = view.positions - padding[:, None] < SINKS
    weights = torch.zeros(heads, view.columns, device=view.device)
    for own, spread in zip(mean.unbind(1), covariance.unbind(1), strict=True):
        logits = scaling * (keys @ own[..., None])[..., 0]
        logits += scaling**2 / 2 * ((keys @ spread) * keys).sum(dim=-1)
        # A head all of whose entries are first tokens has none to normalise over.
        weights += logits.masked_fill(first | ~view.entries, -torch.inf).softmax(-1).nan_to_num()
    worth = weights / mean.shape[1] * view.values.float().norm(dim=-1)
    return EntryScores(worth=worth.masked_fill(first, torch.inf))


SELECTION = Selection(
    summary="the attention expected of queries to come, times |v| (Expected Attention)",
    score=score,
    needs=("queries",),
)

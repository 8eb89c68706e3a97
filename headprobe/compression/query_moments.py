"""Mean and covariance of a layer's queries before their rotation, gathered as tokens come."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from headprobe.attention.rotary import Rotation

SINKS = 4
"""First tokens that are left out: their queries are unlike all others."""


@dataclass(frozen=True, eq=False, kw_only=True)
class QueryMoments:
    """Moments of the queries of each sequence, padding and the first tokens left out.

    ``counts`` are the queries that went in, ``padding`` the tokens of padding before them.
    ``scatter`` is the sum of the outer products of the queries less their mean. ``rotation`` is the
    layer's, if it has one.
    """

    counts: Float32[Tensor, " sequence"]
    padding: Int64[Tensor, " sequence"]
    mean: Float32[Tensor, "sequence query_head head_dim"]
    scatter: Float32[Tensor, "sequence query_head head_dim head_dim"]
    rotation: Rotation | None

    @classmethod
    def of(
        cls,
        query: Float[Tensor, "sequence query_head query head_dim"],
        real: Bool[Tensor, "sequence query"],
        *,
        start: int,
        rotation: Rotation | None,
        padding: Int64[Tensor, " sequence"] | None = None,
    ) -> QueryMoments:
        """Compute the moments of queries that begin at token ``start``, as far as they are real."""
        if padding is None:
            padding = torch.zeros(len(query), dtype=torch.int64, device=query.device)
        token = torch.arange(start, start + query.shape[2], device=query.device)
        hidden = padding[:, None] + (~real).cumsum(dim=1)
        weight = (real & (token - hidden >= SINKS)).float()
        counts = weight.sum(dim=1)
        weight = weight[:, None, :, None]
        found = query.detach().float()
        mean = (found * weight).sum(dim=2) / counts.clamp(min=1)[:, None, None]
        centred = (found - mean[:, :, None]) * weight
        return cls(
            counts=counts,
            padding=hidden[:, -1],
            mean=mean,
            scatter=centred.mT @ centred,
            rotation=rotation,
        )

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors of the record."""
        return [self.counts, self.padding, self.mean, self.scatter]

    def merge(self, other: QueryMoments) -> QueryMoments:
        """Return the moments of these and of later queries (Chan et al. 1979: no cancellation)."""
        total = self.counts + other.counts
        fraction = (other.counts / total.clamp(min=1))[:, None, None]
        apart = other.mean - self.mean
        between = apart[..., :, None] * apart[..., None, :]
        weight = (self.counts[:, None, None] * fraction)[..., None]
        return QueryMoments(
            counts=total,
            padding=other.padding,
            mean=self.mean + apart * fraction,
            scatter=self.scatter + other.scatter + between * weight,
            rotation=other.rotation,
        )

    def take(self, sequences: Tensor) -> QueryMoments:
        """Return the moments of these sequences of the batch."""
        own = (one[sequences.to(one.device)] for one in self.tensors)
        counts, padding, mean, scatter = own
        return QueryMoments(
            counts=counts, padding=padding, mean=mean, scatter=scatter, rotation=self.rotation
        )

    def ahead(
        self, *, tokens: int, positions: int
    ) -> tuple[
        Float32[Tensor, "sequence query_head head_dim"],
        Float32[Tensor, "sequence query_head head_dim head_dim"],
    ]:
        """Rotate mean and covariance by the mean rotation of the next ``positions`` positions.

        Args:
            tokens: the tokens seen, padding included.
            positions: the number of positions that follow them.
        """
        covariance = self.scatter / self.counts.clamp(min=1)[:, None, None, None]
        if self.rotation is None:
            return self.mean, covariance
        device, head_dim = self.mean.device, self.mean.shape[-1]
        turns = {
            start: self.rotation.mean(
                range(start, start + positions), head_dim=head_dim, device=device
            )
            for start in {tokens - hidden for hidden in self.padding.tolist()}
        }
        turn = torch.stack([turns[tokens - hidden] for hidden in self.padding.tolist()])[:, None]
        mean = (turn @ self.mean[..., None])[..., 0]
        return mean, turn @ covariance @ turn.mT


def real_tokens(
    mask: Tensor | None, tokens: range, sequences: int, device: torch.device
) -> Bool[Tensor, "sequence query"]:
    """Mark the new tokens, at these positions, that are no padding: such tokens see themselves."""
    if mask is None:
        return torch.ones(sequences, len(tokens), dtype=torch.bool, device=device)
    at = torch.tensor(tokens, device=mask.device)
    own = mask[:, at] if mask.ndim == 2 else mask[:, 0, torch.arange(len(tokens)), at]
    if own.is_floating_point():
        own = own > torch.finfo(own.dtype).min / 2
    return own.bool().to(device).expand(sequences, -1)

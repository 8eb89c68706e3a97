"""The record of what a layer has seen of its tokens, by which a compression chooses entries."""

from __future__ import annotations

import copy
from collections.abc import Collection
from functools import cache

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headprobe.attention.rotary import Rotation
from headprobe.compression.held import Held
from headprobe.compression.layer_view import Evidence, WindowAttention
from headprobe.compression.observation_window import ObservationWindow
from headprobe.compression.query_moments import QueryMoments, real_tokens


class Observed:
    """The newest queries of a layer, and where a selection needs it what else was seen of it.

    ``window`` holds the newest queries, ``moments`` sums up all queries before their rotation, and
    ``reconstruction`` is the largest attention that a repetition of the context paid to each token.
    """

    def __init__(self) -> None:
        self.window = ObservationWindow()
        self.moments: QueryMoments | None = None
        self.reconstruction: Float[Tensor, "query_head token"] | None = None

    def copy(self) -> Observed:
        """Return a record of the same; what is added to either later is its own."""
        copied = copy.copy(self)
        copied.window = self.window.copy()
        return copied

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors that are kept."""
        moments = [] if self.moments is None else self.moments.tensors
        repeated = [] if self.reconstruction is None else [self.reconstruction]
        return self.window.tensors + moments + repeated

    def add_queries(
        self, query: Tensor, mask: Tensor | None, tokens: range, rotation: Rotation | None
    ) -> None:
        """Add the queries of some tokens, as they were before their ``rotation``."""
        moments = QueryMoments.of(
            query,
            real_tokens(mask, tokens, len(query), query.device),
            start=tokens.start,
            rotation=rotation,
            padding=None if self.moments is None else self.moments.padding,
        )
        self.moments = moments if self.moments is None else self.moments.merge(moments)

    def add_reconstruction(self, largest: Float[Tensor, "query_head token"]) -> None:
        """Add the largest attention of a repetition to every token so far."""
        if self.reconstruction is not None:
            known = slice(0, self.reconstruction.shape[1])
            largest[:, known] = torch.maximum(largest[:, known], self.reconstruction)
        self.reconstruction = largest

    def forget(self) -> None:
        """Drop all that is kept."""
        if not self.window.is_empty:
            self.window = ObservationWindow()
        self.moments = self.reconstruction = None

    def take(self, sequences: Tensor) -> None:
        """Keep these sequences of the batch."""
        self.window.take(sequences)
        if self.moments is not None:
            self.moments = self.moments.take(sequences)

    def evidence(
        self,
        held: Held,
        visible: Bool[Tensor, "sequence token"] | None,
        windows: Collection[int],
        *,
        tokens: int,
        output: Tensor | None,
    ) -> Evidence:
        """Return what selections are given, with the attention of the newest queries on demand.

        Args:
            held: the entries of the layer's heads.
            visible: the tokens that the newest query of each sequence sees; ``None`` is all.
            windows: the numbers of newest queries whose attention may be asked for.
            tokens: the number of tokens of each sequence, padding included.
            output: the output projection of the layer's query heads, if it is needed.
        """

        @cache
        def attention() -> dict[int, WindowAttention]:
            return self.window.attention(held, visible, windows, tokens=tokens)

        return Evidence(
            tokens=tokens,
            attention=lambda window: attention()[window],
            scaling=self.window.scaling,
            queries=self.moments,
            output=output,
            reconstruction=self.reconstruction,
        )

"""One layer of the cache: every token until it is compressed, then what each head keeps."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from headprobe.attention.rotary import Unrotated
from headprobe.compression.attend import attend
from headprobe.compression.eviction import Evictor
from headprobe.compression.held import Held
from headprobe.compression.observed import Observed
from headprobe.compression.ragged import Ragged
from headprobe.compression.ranking import Ranking
from headprobe.compression.target import Rule, Target, reduction_of
from headprobe.errors import HeadprobeError


class BudgetLayer(DynamicLayer):
    """A layer of transformers' ``DynamicCache`` until it is compressed, then ragged.

    ``attended`` is set once the attention function was called with the newest keys,
    ``compressed_after`` is the number of tokens seen at the last compression. There is one target
    for all sequences, or one for each. ``output`` is the output projection, where a selection needs
    it.

    Raises:
        HeadprobeError: a budget names an unknown reduction.
    """

    is_croppable = False
    output: Tensor | None = None

    def __init__(self, targets: Sequence[Target], index: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.index = index
        self._aim(targets)
        self._start_over()

    def _aim(self, targets: Sequence[Target]) -> None:
        for target in targets:
            reduction_of(target)
        self._targets = list(targets)
        self._heads = targets[0].budgets.tokens.shape[1]
        self._kv_heads = targets[0].budgets.layout.num_kv_heads

    def _start_over(self) -> None:
        self.attended = True
        self.compressed_after: int | None = None
        self._tokens = 0
        self._ragged: Ragged | None = None
        self._given: weakref.ref[Tensor] | None = None
        self._observed = Observed()

    @property
    def is_compressed(self) -> bool:
        """True once the layer was compressed."""
        return self._ragged is not None

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors that the layer holds."""
        held = [one for one in (self.keys, self.values) if one is not None]
        ragged = [] if self._ragged is None else self._ragged.tensors
        return held + self._observed.tensors + ragged

    @property
    def lengths(self) -> Int[np.ndarray, "sequence head"]:
        """The number of entries of every head."""
        if self._ragged is not None:
            return np.array(self._ragged.lengths).reshape(-1, self._heads)
        batch = 0 if self.keys is None else len(self.keys)
        return np.full((batch, self._heads), self._tokens)

    @property
    def capacity(self) -> int:
        """Entries that a compression could leave a head: the tokens that the newest query sees."""
        if self.keys is None:
            raise ValueError("expected a layer that holds tokens and is not compressed")
        visible = self._observed.window.visible(self._tokens)
        return self._tokens if visible is None else int(visible.sum(dim=1).max())

    def get_seq_length(self) -> int:
        """Return the number of tokens seen, kept or not: positions go on counting."""
        return self._tokens

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add new tokens; return all tokens, or the new ones alone once the layer is compressed."""
        self.check_attended()
        if key_states.shape[1] != self._kv_heads:
            raise HeadprobeError(
                f"cannot compress the cache: layer {self.index} of the model caches "
                f"{key_states.shape[1]} heads, not {self._kv_heads} KV heads"
            )
        if self._ragged is None:
            keys, values = super().update(key_states, value_states)
        else:
            keys, values = key_states, value_states
            self._ragged.append(self._by_head(keys), self._by_head(values), self._tokens)
        self._tokens += key_states.shape[2]
        self.attended = False
        # The model holds them as long as they are asked for; here they would be held for longer.
        self._given = weakref.ref(keys)
        return keys, values

    def has_given(self, key: Tensor) -> bool:
        """Return whether the last update handed out these keys."""
        return self._given is not None and self._given() is key

    def check_attended(self) -> None:
        """Refuse a model that attends to something else than the keys it caches (deepseek_v3)."""
        if not self.attended:
            raise HeadprobeError(
                f"cannot compress the cache: layer {self.index} of the model does not hand the "
                "keys that it caches to its attention function"
            )

    def attend(
        self,
        query: Tensor,
        mask: Tensor | None,
        attention_kwargs: dict[str, Any],
        *,
        is_causal: bool,
    ) -> Tensor:
        """Compute the attention output over the kept entries, as the attention function returns it.

        ``is_causal`` says that every token up to the query's own is seen, whatever the mask.
        """
        assert self._ragged is not None
        output: Tensor = attend(
            self._ragged,
            query,
            mask,
            position=self._tokens - query.shape[2],
            is_causal=is_causal,
            attention_kwargs=attention_kwargs,
        )
        return output

    def see(
        self,
        query: Tensor,
        mask: Tensor | None,
        attention_kwargs: dict[str, Any],
        *,
        before: Unrotated | None,
        compress_at: int | None,
    ) -> None:
        """Note that the newest queries have attended, and compress after ``compress_at`` tokens.

        What a compression needs of them is kept while one may be ahead. ``before`` holds the
        queries as they were before their rotation, where a selection needs them.
        """
        self.attended = True
        is_ahead = compress_at is not None and self._tokens <= compress_at
        if self.is_compressed and not is_ahead:
            self._observed.forget()
        else:
            self._observed.window.watch(query, mask, attention_kwargs, newest=self._newest)
            if before is not None:
                tokens = range(self._tokens - query.shape[2], self._tokens)
                self._observed.add_queries(before.query, mask, tokens, before.rotation)
        if self._tokens == compress_at:
            self.compress()

    def add_reconstruction(self, largest: Float[Tensor, "query_head token"]) -> None:
        """Add the largest attention of a repetition to every token so far."""
        self._observed.add_reconstruction(largest)

    def set_aside(self, tokens: int) -> None:
        """Reserve memory for ``tokens`` more tokens, once the layer is compressed."""
        if self._ragged is not None:
            self._ragged.set_aside(tokens)

    def advance(self, tokens: int) -> None:
        """Count tokens that the replay of a captured step adds, or below 0 takes back."""
        assert self._ragged is not None
        self._ragged.advance(tokens, self._tokens)
        self._tokens += tokens

    def join(self, other: BudgetLayer) -> BudgetLayer:
        """Join the sequences of this layer and then of another layer, both compressed."""
        assert self._ragged is not None
        assert other._ragged is not None
        joined = copy.copy(self)
        joined._targets = self._targets + other._targets
        joined._ragged = Ragged.join([self._ragged, other._ragged])
        joined._given = None
        joined._observed = Observed()
        return joined

    @property
    def has_varlen_kernel(self) -> bool:
        """True where one kernel call can take all heads of a compressed layer."""
        return self._ragged is not None and self._ragged.has_varlen_kernel

    def branch(self) -> BudgetLayer:
        """Copy the layer, which is not compressed; what both hold already is held once."""
        if self.is_compressed:
            raise ValueError("expected a cache that is not compressed, to branch")
        branch = copy.copy(self)
        branch._observed = self._observed.copy()
        branch._given = None
        return branch

    def fork(self, targets: Sequence[Target], *, keep: bool = True) -> BudgetLayer:
        """Copy the layer with its one sequence compressed to each of the ``targets``.

        This layer stays as it is, or with ``keep`` false is emptied.
        """
        forked = self._aimed(targets)
        forked.compress()
        if not keep:
            self.reset()
        return forked

    def _aimed(self, targets: Sequence[Target]) -> BudgetLayer:
        """Copy the layer, ready to be compressed to other targets."""
        aimed = copy.copy(self)
        aimed._aim(targets)
        if self.is_compressed or self._observed.window.size < min(aimed._newest, self._tokens):
            raise ValueError(
                f"expected a cache that is not compressed and has watched {aimed._newest} queries"
            )
        return aimed

    @torch.no_grad()
    def compress(self) -> None:
        """Leave each head what its target grants it in a context of the tokens now seen.

        One sequence with several targets becomes one sequence for each.
        """
        if not self._tokens:
            raise ValueError("expected tokens in the cache before it is compressed, got none")
        if self._observed.window.is_empty:
            raise ValueError(
                "expected `compress_at` to be set before the newest tokens came: "
                "a compressed cache keeps no queries for another compression unless one is ahead"
            )
        evictor = self._evictor({target.budgets.window for target in self._targets})
        self._ragged = evictor.compress([*self._aims(self._observed.window.sequences)])
        self.keys = self.values = self._given = None
        self.compressed_after = self._tokens
        self._observed = Observed()

    @torch.no_grad()
    def ranking(self, rule: Rule, targets: Sequence[Target]) -> Ranking:
        """Rank the entries that a fork to the ``targets`` chooses from, by what they are worth."""
        return self._aimed(targets)._evictor({rule.window}).ranking(rule)

    def _evictor(self, windows: Collection[int]) -> Evictor:
        """Collect what a compression looks at, by the attention of so many newest queries."""
        held = self._held()
        visible = self._observed.window.visible(self._tokens)
        return Evictor(
            self.index,
            held,
            visible,
            tokens=self._tokens,
            sequences=self._observed.window.sequences,
            evidence=self._observed.evidence(
                held, visible, windows, tokens=self._tokens, output=self.output
            ),
        )

    def _aims(self, sequences: int) -> Iterator[tuple[int, Target]]:
        """Pair the sequences to be compressed with their targets."""
        targets = len(self._targets)
        if 1 not in (sequences, targets) and sequences != targets:
            raise ValueError(f"expected a target for each of {sequences} sequences, got {targets}")
        for number in range(max(sequences, targets)):
            yield number % sequences, self._targets[number % targets]

    @property
    def _newest(self) -> int:
        """The largest number of newest queries that choose entries for a target."""
        return max(1, *(target.budgets.window for target in self._targets))

    def _held(self) -> Held:
        """Collect the entries that all heads hold."""
        if self._ragged is not None:
            return Held.of_ragged(self._ragged)
        assert self.keys is not None
        assert self.values is not None
        return Held.of_whole(self.keys.detach(), self.values.detach(), heads=self._heads)

    def _by_head(
        self, states: Float[Tensor, "sequence kv_head token dim"]
    ) -> Float[Tensor, "head_entries token dim"]:
        """Repeat the states of a KV head for each head of the budget that stores entries of it."""
        copies = self._heads // states.shape[1]
        if copies == 1:
            return states.detach().flatten(0, 1)
        return states.detach()[:, :, None].expand(-1, -1, copies, -1, -1).flatten(0, 2)

    def reset(self) -> None:
        """Empty the layer."""
        self.keys = self.values = None
        self.is_initialized = False
        self._start_over()

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse to remove tokens: what was evicted is gone."""
        raise ValueError("expected no call of crop: a cache with a budget cannot be taken back")

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep these sequences of the batch, as a step of a beam search does."""
        self._take(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these sequences of the batch."""
        self._take(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every sequence of the batch ``repeats`` times."""
        self._take(torch.arange(len(self.lengths)).repeat_interleave(repeats))

    def _take(self, sequences: Tensor) -> None:
        if not self._tokens:
            return
        if self._ragged is None:
            super().batch_select_indices(sequences)
        else:
            self._ragged = self._ragged.take(
                [
                    number * self._heads + head
                    for number in sequences.tolist()
                    for head in range(self._heads)
                ]
            )
        self._observed.take(sequences)
        if len(self._targets) > 1:
            self._targets = [self._targets[number] for number in sequences.tolist()]

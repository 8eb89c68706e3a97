"""One layer of the cache: every token until it is cut, then what each head keeps."""

from __future__ import annotations

import copy
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from headprobe.attention.observe import attention_rows
from headprobe.compression.attend import attend, seen, sees_all
from headprobe.compression.cutting import REDUCTIONS, Cutter, reduction_of
from headprobe.compression.ragged import COMPENSATION, Ragged, Stream
from headprobe.compression.sharing import Target
from headprobe.errors import HeadprobeError

_SCORE_TERMS = ("scaling", "softcap", "s_aux", "sliding_window")


class BudgetLayer(DynamicLayer):
    """A layer of transformers' ``DynamicCache`` until it is cut, then ragged.

    ``attended`` is set once the attention function has come by with the newest keys, ``cut_after``
    is the number of tokens seen at the last cut. There is one target for all sequences, or one for
    each.

    Raises:
        HeadprobeError: a budget names an unknown reduction.
    """

    is_croppable = False

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
        self._kv_heads = targets[0].budgets.layout.kv_heads

    def _start_over(self) -> None:
        self.attended = True
        self.cut_after: int | None = None
        self._tokens = 0
        self._ragged: Ragged | None = None
        self._given: weakref.ref[Tensor] | None = None
        self.forget()

    @property
    def is_cut(self) -> bool:
        """Whether it was cut at least once."""
        return self._ragged is not None

    @property
    def tensors(self) -> list[Tensor]:
        """All that it holds."""
        held = [self.keys, self.values, self._mask, *self._recent]
        ragged = [] if self._ragged is None else self._ragged.tensors
        return [tensor for tensor in held if tensor is not None] + ragged

    @property
    def lengths(self) -> Int[np.ndarray, "sequence head"]:
        """Entries of every head."""
        if self._ragged is not None:
            return np.array(self._ragged.lengths).reshape(-1, self._heads)
        batch = 0 if self.keys is None else len(self.keys)
        return np.full((batch, self._heads), self._tokens)

    @property
    def room(self) -> int:
        """Entries that a cut could leave a head: the tokens that the newest query sees."""
        if self.keys is None:
            raise ValueError("expected a layer that holds tokens and is not cut")
        return int(self._visible(len(self.keys)).sum(dim=1).max())

    def get_seq_length(self) -> int:
        """Tokens seen, kept or not: positions go on counting."""
        return self._tokens

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add new tokens; once cut, what comes back is these alone."""
        self.check_attended()
        if key_states.shape[1] != self._kv_heads:
            raise HeadprobeError(
                f"cannot cut the cache: layer {self.index} of the model caches "
                f"{key_states.shape[1]} heads, not {self._kv_heads} KV heads"
            )
        if self._ragged is None:
            keys, values = super().update(key_states, value_states)
        else:
            keys, values = key_states, value_states
            self._ragged.append(self._by_stream(keys), self._by_stream(values), self._tokens)
        self._tokens += key_states.shape[2]
        self.attended = False
        # The model holds them as long as they are asked for; here they would be held for longer.
        self._given = weakref.ref(keys)
        return keys, values

    def has_given(self, key: Tensor) -> bool:
        """Whether the last update handed out these keys."""
        return self._given is not None and self._given() is key

    def check_attended(self) -> None:
        """Refuse a model that works on something else than the keys it caches (deepseek_v3)."""
        if not self.attended:
            raise HeadprobeError(
                f"cannot cut the cache: layer {self.index} of the model does not hand the keys "
                "that it caches to its attention function"
            )

    def attend(self, query: Tensor, mask: Tensor | None, terms: dict[str, Any]) -> Tensor:
        """The attention output over what is kept, as the attention function returns it."""
        assert self._ragged is not None
        position = self._tokens - query.shape[2]
        output: Tensor = attend(self._ragged, query, mask, position=position, terms=terms)
        return output

    def forget(self) -> None:
        """Keep nothing for a cut."""
        self._recent: deque[Tensor] = deque()
        self._mask: Tensor | None = None
        self._terms: dict[str, Any] = {}

    def watch(self, query: Tensor, mask: Tensor | None, terms: dict[str, Any]) -> None:
        """Keep what a cut needs: the newest queries, and what the last one sees."""
        newest = self._newest
        # Of some models the query is a view of more.
        self._recent.append(query[:, :, -newest:].clone())
        while sum(part.shape[2] for part in self._recent) - self._recent[0].shape[2] >= newest:
            self._recent.popleft()
        self._mask = mask[:, :, -1:].clone() if mask is not None and mask.ndim == 4 else mask
        self._terms = {name: terms.get(name) for name in _SCORE_TERMS}

    def fork(self, targets: Sequence[Target]) -> BudgetLayer:
        """A layer with what this one holds of its one sequence, cut to each of some targets.

        This one stays as it is.
        """
        forked = copy.copy(self)
        forked._aim(targets)
        watched = sum(part.shape[2] for part in self._recent)
        if self.is_cut or watched < min(forked._newest, self._tokens):
            raise ValueError(
                f"expected a cache that is not cut and has watched {forked._newest} queries"
            )
        forked.cut()
        return forked

    @torch.no_grad()
    def cut(self) -> None:
        """Leave each head what its target grants it in a context of the tokens now seen.

        One sequence with several targets becomes one sequence for each.
        """
        if not self._tokens:
            raise ValueError("expected tokens in the cache before it is cut, got none")
        if not self._recent:
            raise ValueError(
                "expected `cut_at` to be set before the newest tokens came: "
                "a cache that is cut keeps no queries for another cut unless one is ahead"
            )
        streams = self._streams()
        visible = self._visible(len(streams) // self._heads)

        def attention(number: int, window: int, reduction: str) -> Float32[Tensor, " key"]:
            allowed = visible[number // self._heads]
            return self._attention(streams[number], number, allowed, window, reduction)

        cutter = Cutter(self.index, streams, visible, attention)
        kept = [cutter.cut(sequence, target) for sequence, target in self._aims(visible)]
        self._ragged = Ragged(list(chain.from_iterable(kept)))
        self.keys = self.values = self._given = None
        self.cut_after = self._tokens
        self.forget()

    def _aims(self, visible: Bool[Tensor, "sequence token"]) -> Iterator[tuple[int, Target]]:
        """Sequences to be cut, each with its target."""
        if not visible[:, -1].all():
            raise ValueError("expected padding on the left, got a sequence that ends in it")
        batch, targets = len(visible), len(self._targets)
        if 1 not in (batch, targets) and batch != targets:
            raise ValueError(f"expected a target for each of {batch} sequences, got {targets}")
        for number in range(max(batch, targets)):
            yield number % batch, self._targets[number % targets]

    def _attention(
        self,
        stream: Stream,
        number: int,
        allowed: Bool[Tensor, " token"],
        window: int,
        reduction: str,
    ) -> Float32[Tensor, " key"]:
        """Mean attention of the newest queries to the entries that can still be seen."""
        sequence, head = divmod(number, self._heads)
        recent = torch.cat(list(self._recent), dim=2)[sequence, :, -max(window, 1) :]
        group = len(recent) // self._heads
        heads = slice(head * group, (head + 1) * group)
        at = torch.arange(self._tokens - recent.shape[1], self._tokens, device=recent.device)
        real = allowed[at]
        compensation = stream.positions == COMPENSATION
        visible = compensation | allowed[stream.positions.long().clamp(min=0)]
        mask = visible & (stream.positions <= at[real][:, None])
        scores = torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, -torch.inf)
        scores[:, compensation] = np.log(max(stream.weight, 1))
        sinks = self._terms.get("s_aux")
        rows = attention_rows(
            recent[heads][:, real],
            stream.keys[None].float(),
            scores[None],
            self._terms | {"s_aux": None if sinks is None else sinks[heads]},
        )
        # A query whose own entry was cut away may see none.
        mean = rows.nan_to_num().mean(dim=1)
        reduced: Tensor = REDUCTIONS[reduction](mean, dim=0)
        return reduced

    @property
    def _newest(self) -> int:
        """How many of the newest queries choose, at most."""
        return max(1, *(target.budgets.window for target in self._targets))

    def _visible(self, batch: int) -> Bool[Tensor, "sequence token"]:
        """The tokens that the newest query sees: neither padding nor outside a sliding window."""
        device = self._recent[-1].device
        tokens = torch.arange(self._tokens, device=device).expand(batch, -1)
        last = range(self._tokens - 1, self._tokens)
        if sees_all(self._mask, last, self._terms):
            return torch.ones_like(tokens, dtype=torch.bool)
        sequences = torch.arange(batch, device=device)
        found = seen(self._mask, sequences, tokens, last, self._terms)
        if found.dtype != torch.bool:
            found = found > torch.finfo(found.dtype).min / 2
        return found[:, 0]

    def _streams(self) -> list[Stream]:
        if self._ragged is not None:
            return self._ragged.streams()
        assert self.keys is not None
        assert self.values is not None
        positions = torch.arange(self._tokens, dtype=torch.int32, device=self.keys.device)
        batch, kv_heads = self.keys.shape[:2]
        copies = self._heads // kv_heads
        return [
            Stream(
                keys=self.keys[sequence, head // copies].detach(),
                values=self.values[sequence, head // copies].detach(),
                positions=positions,
            )
            for sequence in range(batch)
            for head in range(self._heads)
        ]

    def _by_stream(
        self, states: Float[Tensor, "sequence kv_head token dim"]
    ) -> Float[Tensor, "stream token dim"]:
        """One for each head of the budget: with granularity ``query`` a KV head stands for each."""
        copies = self._heads // states.shape[1]
        return states.detach()[:, :, None].expand(-1, -1, copies, -1, -1).flatten(0, 2)

    def reset(self) -> None:
        """Empty it."""
        self.keys = self.values = None
        self.is_initialized = False
        self._start_over()

    def crop(self, tokens_to_remove: int) -> None:
        """Not possible: what was cut away is gone."""
        raise ValueError("expected no call of crop: a cache with a budget cannot be taken back")

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Take these sequences of the batch, as a step of a beam search does."""
        self._take(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Take these sequences of the batch."""
        self._take(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Take every sequence of the batch that often."""
        self._take(torch.arange(len(self.lengths)).repeat_interleave(repeats))

    def _take(self, sequences: Tensor) -> None:
        if not self._tokens:
            return
        if self._ragged is None:
            super().batch_select_indices(sequences)
        else:
            streams = self._ragged.streams()
            starts = [number * self._heads for number in sequences.tolist()]
            taken = [streams[start + head] for start in starts for head in range(self._heads)]
            self._ragged = Ragged(taken)
        self._recent = deque(part[sequences.to(part.device)] for part in self._recent)
        if len(self._targets) > 1:
            self._targets = [self._targets[number] for number in sequences.tolist()]
        if self._mask is not None and len(self._mask) > 1:
            self._mask = self._mask[sequences.to(self._mask.device)]

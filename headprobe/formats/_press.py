"""A press for NVIDIA's kvpress that gives every KV head the entries a budget grants it.

kvpress's own presses divide a ratio among the heads; none takes a number for each head. The entries
that a head loses are marked as masked, as ``AdaKVPress`` does it (Ada-KV, arXiv 2407.11550):
kvpress puts keys in their place that no query attends to, so the model answers as under the budget,
and the memory is that of the whole cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from kvpress import BasePress, ScorerPress
from torch import Tensor

from headprobe.budgets import HeadBudgets
from headprobe.errors import HeadprobeError, UsageError
from headprobe.formats._heads import require_kv
from headprobe.models.config import check_layout


@dataclass
class HeadBudgetPress(BasePress):  # type: ignore[misc]
    """A press that keeps a budget's entries, chosen by any of kvpress's scoring presses.

    ::

        press = HeadBudgetPress(SnapKVPress(window_size=8), HeadBudgets.load(path))
        with press(model):
            model(input_ids, past_key_values=cache)

    In a context of N tokens a KV head keeps ``budgets.kept(N)`` entries: the ``window`` newest
    first, then the ``sinks`` first ones, then the entries with the highest score, or the newest
    where the head is ``streaming``. Of every other selection the other press takes the place, and
    its own ratio is not looked at.

    Args:
        press: says which entries of a head are worth most.
        budgets: for the model that the press is used with, per KV head.

    Raises:
        UsageError: the budget is per query head, or has compensation entries.
        ValueError: ``press`` does not score entries.
    """

    press: BasePress
    budgets: HeadBudgets
    _dropped: dict[int, float] = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.press, ScorerPress):
            raise ValueError(f"expected a ScorerPress, got {type(self.press).__name__}")
        require_kv(self.budgets)
        if self.budgets.compensation:
            raise UsageError(
                "kvpress has no entry that stands for what was dropped; "
                "allocate again with `compensation=False`"
            )

    def post_init_from_model(self, model: Any) -> None:
        """Check that the budget fits the model; kvpress calls it when the press is put on a model.

        Raises:
            HeadprobeError: the budget is for another layout, or the model has eager attention,
                which kvpress cannot mask.
        """
        check_layout(model.config, self.budgets.layout)
        if model.config.get_text_config(decoder=True)._attn_implementation == "eager":
            raise HeadprobeError(
                "kvpress masks no keys of eager attention; "
                "load the model with attn_implementation='sdpa'"
            )
        self.press.post_init_from_model(model)
        self._dropped.clear()

    @property
    def compression_ratio(self) -> float:
        """The fraction of the last context's entries that were dropped, from 0 to 1.

        Raises:
            ValueError: there was no context yet.
        """
        if not self._dropped:
            raise ValueError("expected a forward pass before the compression ratio, got none")
        return sum(self._dropped.values()) / len(self._dropped)

    def compress(
        self,
        module: Any,
        hidden_states: Float[Tensor, "batch query hidden"],
        keys: Float[Tensor, "batch kv_head key head_dim"],
        values: Float[Tensor, "batch kv_head key value_dim"],
        attentions: Tensor | None,
        kwargs: dict[str, Any],
    ) -> tuple[Tensor, Tensor]:
        """Mark the entries that each head loses; return keys and values as they are.

        kvpress calls it after each layer's attention.
        """
        layer, (batch, _, length, _) = module.layer_idx, keys.shape
        kept = torch.from_numpy(self.budgets.kept(length)[layer]).to(keys.device)
        attended = torch.from_numpy(self.budgets.selection[layer] != "streaming").to(keys.device)
        self._dropped[layer] = 1 - float(kept.double().mean()) / length
        module.masked_key_indices = None
        if (kept == length).all():
            return keys, values
        worth = torch.arange(length, device=keys.device).expand(batch, len(kept), -1)
        if (attended & (kept < length)).any():
            scores = self.press.score(module, hidden_states, keys, values, attentions, kwargs)
            # In half precision the positions of streaming heads would run together.
            worth = torch.where(attended[:, None], scores.float(), worth)
        place = _places(worth, window=self.budgets.window, sinks=self.budgets.sinks)
        module.masked_key_indices = torch.where(place >= kept[:, None])
        return keys, values


def _places(
    worth: Float[Tensor, "batch kv_head key"] | Int[Tensor, "batch kv_head key"],
    *,
    window: int,
    sinks: int,
) -> Int[Tensor, "batch kv_head key"]:
    """Rank each entry by the order in which a head keeps entries, from 0: window, sinks, worth."""
    length = worth.shape[-1]
    window, sinks = min(window, length), min(sinks, length)
    rank = worth.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
    age = torch.arange(length, device=worth.device)
    rank[..., :sinks] = age[:sinks] - sinks
    rank[..., length - window :] = age.flip(0)[length - window :] - sinks - window
    return rank.argsort(dim=-1).argsort(dim=-1)

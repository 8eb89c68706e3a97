"""The plainest runtime that obeys a budget: all is kept, a mask a head hides what is dropped."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from headprobe.attention.observe import patched_attention
from headprobe.attention.prefix_cache import PrefixCache
from headprobe.budgets import HeadBudgets


class DenseCache:
    """Attention in float64 over a full cache; ``compress`` hides entries of each sequence and head.

    ``shown[layer]`` is ``[sequence][head]`` -> the token positions still there, and
    ``hidden[layer]`` those that a compensation entry stands for.
    """

    def __init__(self, model: PreTrainedModel, budgets: HeadBudgets) -> None:
        self.model, self.budgets = model, budgets
        self.cache = PrefixCache(model, capacity=64)
        self.shown: dict[int, list[list[list[int]]]] = {}
        self.hidden: dict[int, list[list[list[int]]]] = {}
        self.last: dict[int, tuple[Any, ...]] = {}

    def __call__(self, ids: Tensor, **inputs: Any) -> Tensor:
        with patched_attention(self.model, self.attend):
            return self.model(ids, past_key_values=self.cache, **inputs).logits

    def compress(self, *, since: int = 0) -> None:
        """Compress by the attention of the newest queries, those of tokens from ``since`` on."""
        for layer, (query, _, visible, _) in self.last.items():
            heads = self.budgets.tokens.shape[1]
            for sequence in range(len(query)):
                tokens = visible[sequence, 0, -1].nonzero().flatten().tolist()
                head_sizes = self.budgets.kept(len(tokens))[layer]
                for head in range(heads):
                    shown = [t for t in self.shown[layer][sequence][head] if t in set(tokens)]
                    weights = self.watched(layer, sequence, head, since)
                    chosen = self.choose(layer, head, shown, int(head_sizes[head]), weights)
                    self.shown[layer][sequence][head] = chosen
                    gone = [t for t in shown if t not in chosen]
                    self.hidden[layer][sequence][head] += gone

    def choose(
        self, layer: int, head: int, shown: list[int], kept: int, weights: dict[int, float]
    ) -> list[int]:
        window, sinks = self.budgets.window, self.budgets.sinks
        kept = min(kept, len(shown))
        newest = shown[len(shown) - min(kept, window) :]
        oldest = shown[: min(sinks, kept - len(newest))]
        middle = [t for t in shown if t not in newest and t not in oldest]
        free = kept - len(newest) - len(oldest)
        if self.budgets.selection[layer][head] == "streaming":
            picked = middle[len(middle) - free :]
        else:
            older = [t for t in shown if t not in newest]
            pooled = {
                t: max(weights[o] for o in older[max(0, i - 3) : i + 4])
                for i, t in enumerate(older)
            }
            picked = sorted(middle, key=lambda t: (-pooled[t], -weights[t], t))[:free]
        return sorted([*oldest, *picked, *newest])

    def watched(self, layer: int, sequence: int, head: int, since: int) -> dict[int, float]:
        """Attention of the newest queries on each token, reduced over the head's query heads."""
        query, key, visible, attention_kwargs = self.last[layer]
        tokens, newest = key.shape[2], max(self.budgets.window, 1)
        allowed = visible[sequence, 0, -1]
        group = query.shape[1] // self.budgets.tokens.shape[1]
        means = []
        for query_head in range(head * group, (head + 1) * group):
            total = torch.zeros(tokens, dtype=torch.float64)
            real = [t for t in range(max(tokens - newest, since), tokens) if allowed[t]]
            for at in real:
                seen = allowed & (torch.arange(tokens) <= at)
                weights, _ = self.softmax(
                    layer,
                    sequence,
                    query_head,
                    query[sequence, query_head, at],
                    key,
                    seen,
                    attention_kwargs,
                )
                total += weights
            means.append(total / len(real))
        reduce = {"mean": torch.mean, "max": torch.amax, "sum": torch.sum}
        reduced = reduce[self.budgets.strategy.get("reduce", "mean")](torch.stack(means), dim=0)
        return dict(enumerate(reduced.tolist()))

    def softmax(
        self,
        layer: int,
        sequence: int,
        query_head: int,
        query: Tensor,
        key: Tensor,
        seen: Tensor,
        attention_kwargs: dict[str, Any],
    ) -> tuple[Tensor, float]:
        """One query's weights on all tokens, and on the compensation entry."""
        budget_head = query_head * self.budgets.tokens.shape[1] // self.model_heads
        keys = key[sequence, query_head * key.shape[1] // self.model_heads]
        there = torch.zeros(len(keys), dtype=torch.bool)
        there[self.shown[layer][sequence][budget_head]] = True
        hidden = self.hidden[layer][sequence][budget_head] if self.budgets.compensation else []

        def score(of: Tensor) -> Tensor:
            scaling, cap = attention_kwargs.get("scaling"), attention_kwargs.get("softcap")
            raw = of @ query * (len(query) ** -0.5 if scaling is None else scaling)
            return raw if cap is None else cap * torch.tanh(raw / cap)

        scores = score(keys).masked_fill(~(seen & there), -torch.inf)
        extra = torch.full((2,), -torch.inf, dtype=torch.float64)
        if hidden:
            extra[0] = score(keys[hidden].mean(0)) + math.log(len(hidden))
        if attention_kwargs.get("s_aux") is not None:
            extra[1] = attention_kwargs["s_aux"][query_head]
        weights = torch.cat([scores, extra]).softmax(0).nan_to_num()
        return weights[:-2], float(weights[-2])

    def attend(
        self,
        original: Any,
        module: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        **attention_kwargs: Any,
    ) -> tuple[Tensor, None]:
        layer, (batch, self.model_heads, queries, _) = module.layer_idx, query.shape
        query, key, value = query.double(), key.double(), value.double()
        tokens = key.shape[2]
        visible = self.visible(mask, batch, queries, tokens)
        heads = self.budgets.tokens.shape[1]
        self.shown.setdefault(layer, [[[] for _ in range(heads)] for _ in range(batch)])
        self.hidden.setdefault(layer, [[[] for _ in range(heads)] for _ in range(batch)])
        output = torch.zeros(batch, queries, self.model_heads, value.shape[-1])
        for sequence in range(batch):
            for head in range(heads):
                self.shown[layer][sequence][head] += range(tokens - queries, tokens)
            for head in range(self.model_heads):
                values = value[sequence, head * value.shape[1] // self.model_heads]
                hidden = self.hidden[layer][sequence][head * heads // self.model_heads]
                for i in range(queries):
                    weights, extra = self.softmax(
                        layer,
                        sequence,
                        head,
                        query[sequence, head, i],
                        key,
                        visible[sequence, 0, i],
                        attention_kwargs,
                    )
                    total = weights @ values
                    output[sequence, i, head] = (
                        total + extra * values[hidden].mean(0) if extra else total
                    )
        before = self.last[layer][0] if layer in self.last else query[:, :, :0]
        self.last[layer] = (torch.cat([before, query], dim=2), key, visible, attention_kwargs)
        return output, None

    @staticmethod
    def visible(mask: Tensor | None, batch: int, queries: int, tokens: int) -> Tensor:
        if mask is None:
            everything = torch.ones(tokens, tokens, dtype=torch.bool).tril()
            return everything[-queries:].expand(batch, 1, -1, -1)
        mask = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
        return mask.expand(batch, -1, -1, -1)

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from architectures import ARCHITECTURES, build
from compression.dense import Dense
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from headprobe.attention import LayerRows, observe
from headprobe.budgets import HeadBudgets
from headprobe.compression import HeadBudgetCache
from headprobe.errors import HeadprobeError
from headprobe.layout import HeadLayout
from headprobe.model import head_layout

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is dep:DeprecationWarning")

PROMPT, STEPS, TURN = 20, 4, 5
CLOSE = {"rtol": 0, "atol": 2e-5}
# Softly capped, sliding, chunked, with sinks, with convolutions, with one KV head, with as many as
# query heads.
TEN = [
    "llama",
    "mistral",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "gpt_oss",
    "llama4_text",
    "gpt_neox",
    "gpt_bigcode",
    "lfm2",
]
LATENT = ["deepseek_v3"]
KINDS: dict[str, dict[str, Any]] = {
    "attention": {},
    "max": {"reduce": "max"},
    "sinks": {"sinks": 2},
    "streaming": {"selection": "streaming", "sinks": 2},
    "compensation": {"compensation": True},
    "razor": {"selection": "streaming", "sinks": 2, "compensation": True, "full_heads": True},
    "query-heads": {"granularity": "query"},
    "less-than-the-window": {"window": 12},
    "no-window": {"window": 0},
}


def budgets(
    model: PreTrainedModel,
    *,
    granularity: str = "kv",
    selection: str = "attention",
    reduce: str = "mean",
    ratio: float = 0.0,
    full_heads: bool = False,
    tokens: tuple[int, int] = (4, 12),
    **fields: Any,
) -> HeadBudgets:
    """A budget whose heads get different numbers of tokens."""
    layout = head_layout(model.config, id="tiny")
    shape = (layout.layers, layout.kv_heads if granularity == "kv" else layout.heads)
    ratios = np.full(shape, ratio)
    if full_heads:
        ratios[:, 0] = 1.0
    return HeadBudgets(
        layout=layout,
        strategy={"name": "test", "reduce": reduce},
        granularity=granularity,
        selection=np.full(shape, selection),
        tokens=np.random.default_rng(0).integers(*tokens, shape),
        ratio=ratios,
        **{"window": 3, "sinks": 0, "compensation": False} | fields,
    )


def ids(tokens: int, *, batch: int = 1, seed: int = 1) -> Tensor:
    return torch.randint(3, 64, (batch, tokens), generator=torch.Generator().manual_seed(seed))


def greedy(model: PreTrainedModel, prompt: Tensor, **options: Any) -> Tensor:
    return model.generate(prompt, do_sample=False, max_new_tokens=6, **options)


def shown(dense: Dense, layers: int) -> np.ndarray:
    """Entries of every head as ``HeadBudgetCache.entries`` counts them."""
    some = next(iter(dense.shown))
    none = [[[]] * len(heads) for heads in dense.shown[some]]
    compensated = dense.budgets.compensation
    return np.array(
        [
            [
                [len(h) + (compensated and bool(d)) for h, d in zip(heads, gone, strict=True)]
                for heads, gone in zip(
                    dense.shown.get(layer, none), dense.hidden.get(layer, none), strict=True
                )
            ]
            for layer in range(layers)
        ]
    )


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", TEN)
def test_ragged_equals_a_dense_cache_with_a_mask_token_by_token(
    architecture: str, kind: str
) -> None:
    """Prefill, a cut, decoding, the next turn as a chunk, a second cut, decoding."""
    model = build(architecture)
    budget = budgets(model, **KINDS[kind])
    tokens = ids(PROMPT + STEPS + TURN + STEPS)
    ends = [PROMPT, *range(PROMPT + 1, PROMPT + STEPS + 1)]
    ends += [ends[-1] + TURN, *range(ends[-1] + TURN + 1, tokens.shape[1] + 1)]
    dense = Dense(model, budget)
    with HeadBudgetCache(model, budget) as cache:
        for start, stop in zip([0, *ends], ends, strict=False):
            logits = model(tokens[:, start:stop], past_key_values=cache).logits
            torch.testing.assert_close(logits, dense(tokens[:, start:stop]), **CLOSE)
            if stop in (PROMPT, PROMPT + STEPS + TURN):
                cache.cut()
                dense.cut()
                np.testing.assert_array_equal(cache.entries, shown(dense, len(cache)))
    assert cache.get_seq_length() == tokens.shape[1]

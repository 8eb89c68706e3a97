from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch
from transformers import DynamicCache, PreTrainedModel

from headprobe.attention.kernels import allowed_kernels, attend_groups
from headprobe.attention.observe import forward, observe
from headprobe.budgets import HeadBudgets
from headprobe.compression import HeadBudgetCache
from headprobe.models.config import head_layout


@pytest.mark.parametrize("switched_on", [True, False])
def test_cudnn_is_off_on_cuda_alone_and_as_it_was_afterwards(switched_on: bool) -> None:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    try:
        torch.backends.cuda.enable_cudnn_sdp(switched_on)
        with allowed_kernels(torch.device("cpu")):
            assert torch.backends.cuda.cudnn_sdp_enabled() == switched_on
        with allowed_kernels(torch.device("cuda")):
            assert not torch.backends.cuda.cudnn_sdp_enabled()
            assert torch.backends.cuda.flash_sdp_enabled()
            assert torch.backends.cuda.mem_efficient_sdp_enabled()
            assert torch.backends.cuda.math_sdp_enabled()
        assert torch.backends.cuda.cudnn_sdp_enabled() == switched_on
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


@torch.no_grad()
def test_every_pass_of_ours_runs_with_the_allowed_kernels(
    tiny_llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = []

    @contextmanager
    def noted(device: torch.device) -> Iterator[None]:
        entered.append(device)
        yield

    monkeypatch.setattr("headprobe.attention.observe.allowed_kernels", noted)
    layout, ids = head_layout(tiny_llama.config, id="tiny"), torch.ones(1, 4, dtype=torch.long)
    shape = (layout.layers, layout.num_kv_heads)
    budgets = HeadBudgets(
        layout=layout,
        strategy={"name": "test"},
        granularity="kv",
        window=1,
        sinks=0,
        compensation=False,
        selection=np.full(shape, "attention"),
        tokens=np.full(shape, 2),
        ratio=np.zeros(shape),
    )
    observe(tiny_llama, ids, lambda rows: None)
    forward(tiny_llama, ids, past_key_values=DynamicCache(config=tiny_llama.config))
    with HeadBudgetCache(tiny_llama, budgets, compress_at=4) as cache:
        tiny_llama(ids, past_key_values=cache)
        tiny_llama(ids[:, :1], past_key_values=cache)
    assert entered == [torch.device("cpu")] * 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("queries", [1, 2, 3, 16, 17])
@pytest.mark.parametrize("group", [1, 3])
@pytest.mark.parametrize("masked", ["no", "for all", "by head"])
def test_groups_attend_as_each_query_head_alone(
    dtype: torch.dtype, queries: int, group: int, masked: str
) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(*shape, generator=generator).to(dtype)
        for shape in ((2, group, queries, 16), (2, 40, 16), (2, 40, 16))
    )
    mask = torch.rand(1 if masked == "for all" else 2, 1, queries, 40, generator=generator) < 0.5
    mask[..., 0] = True
    output = attend_groups(query, key, value, None if masked == "no" else mask, scale=0.3)
    for head in range(2):
        seen = mask.expand(2, -1, -1, -1)[head, 0]
        for one in range(group):
            scores = query[head, one].double() @ key[head].double().T * 0.3
            if masked != "no":
                scores = scores.masked_fill(~seen, -torch.inf)
            expected = scores.softmax(dim=-1) @ value[head].double()
            close = 1e-5 if dtype == torch.float32 else 2e-2
            torch.testing.assert_close(output[head, one].double(), expected, atol=close, rtol=close)


@torch.no_grad()
@pytest.mark.parametrize("sequences", [1, 3])
def test_decoding_without_a_mask_gives_the_logits_of_the_models_own_attention(
    tiny_llama: PreTrainedModel, sequences: int
) -> None:
    ids = torch.arange(1, 10).repeat(sequences, 1)
    logits = []
    for run in (tiny_llama, partial(forward, tiny_llama)):
        cache = DynamicCache(config=tiny_llama.config)
        run(ids, past_key_values=cache)
        logits.append(run(ids[:, :1], past_key_values=cache).logits)
    torch.testing.assert_close(*logits, atol=1e-5, rtol=1e-5)

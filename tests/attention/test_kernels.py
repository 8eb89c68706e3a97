from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from transformers import DynamicCache, PreTrainedModel

from headprobe.attention.kernels import allowed_kernels
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

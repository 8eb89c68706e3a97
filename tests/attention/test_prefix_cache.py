from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from headprobe.attention.observe import forward
from headprobe.attention.prefix_cache import PrefixCache, supports_chunked_prefill
from headprobe.errors import HeadprobeError
from tests._support.architectures import (
    ARCHITECTURES,
    COMMON,
    GROUPED,
    STATES,
    WHOLE,
    WITH_STATES,
    build,
)


def tokens(count: int, seed: int) -> Tensor:
    return torch.randint(3, 64, (1, count), generator=torch.Generator().manual_seed(seed))


def run(model: PreTrainedModel, ids: Tensor, cache: PrefixCache) -> Tensor:
    logits: Tensor = forward(model, ids, past_key_values=cache, use_cache=True).logits
    return logits


def plain(model: PreTrainedModel, ids: Tensor) -> Tensor:
    logits: Tensor = model(ids, use_cache=False).logits
    return logits


@torch.no_grad()
@pytest.mark.parametrize("capacity", [3, 64], ids=["too-small", "enough"])
@pytest.mark.parametrize(
    "architecture", [name for name in (*ARCHITECTURES, *STATES) if name not in WHOLE]
)
@pytest.mark.slow
def test_cut_back_it_goes_on_as_if_nothing_had_come_after(architecture: str, capacity: int) -> None:
    model = build(architecture)
    shared, branches = tokens(14, 1), [tokens(9, seed) for seed in (2, 3)]
    cache = PrefixCache(model, capacity)
    run(model, shared[:, :10], cache)
    cache.snapshot()
    run(model, shared[:, 10:], cache)
    cache.snapshot()
    for length in (14, 10, 0):
        for branch in branches:
            cache.crop(length)
            assert cache.get_seq_length() == length
            whole = torch.cat([shared[:, :length], branch], dim=1)
            expected = plain(model, whole)[:, length:]
            torch.testing.assert_close(run(model, branch, cache), expected, rtol=0, atol=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("architecture", WITH_STATES)
def test_a_state_goes_back_to_a_mark_only(architecture: str) -> None:
    model = build(architecture)
    cache = PrefixCache(model, 32)
    assert cache.has_recurrent_state
    run(model, tokens(8, 1), cache)
    cache.snapshot()
    run(model, tokens(4, 2), cache)
    with pytest.raises(ValueError, match="expected a length with a snapshot, got 7"):
        cache.crop(7)
    cache.crop(8)


@torch.no_grad()
def test_memory_is_set_aside_once() -> None:
    model = build("llama")
    cache = PrefixCache(model, 32)
    run(model, tokens(8, 1), cache)
    before = [layer.keys.data_ptr() for layer in cache.layers]
    for seed in range(3):
        run(model, tokens(8, seed), cache)
    assert [layer.keys.data_ptr() for layer in cache.layers] == before
    assert [layer.keys.shape[2] for layer in cache.layers] == [32] * 4


@pytest.mark.parametrize("architecture", ["llama", "mistral", *WITH_STATES])
def test_a_model_that_starts_anew_with_every_piece_is_told(architecture: str) -> None:
    model = build(architecture)
    assert supports_chunked_prefill(model) == (architecture not in WHOLE)


def test_a_model_with_a_cache_of_its_own_is_named() -> None:
    config = AutoConfig.for_model("minimax", **COMMON | GROUPED)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(HeadprobeError, match=r"'minimax' model: .* of its own alone, MiniMaxCache"):
        PrefixCache(model, 32)

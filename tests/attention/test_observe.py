from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForCausalLM,
    DynamicCache,
    PreTrainedModel,
    StaticCache,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import flash_attention_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from headprobe.attention.logit_attribution import LogitAttribution
from headprobe.attention.observe import observe
from headprobe.attention.prefix_cache import PrefixCache
from headprobe.attention.rows import AttentionRows
from headprobe.errors import HeadprobeError
from headprobe.models.loading import attention_layers
from tests._support.architectures import ARCHITECTURES, COMMON, STRANGE, build

PROMPT, STEPS = 20, 3
LENGTH = PROMPT + STEPS
CLOSE = {"rtol": 0, "atol": 5e-6}


def tokens() -> Tensor:
    return torch.randint(3, 64, (1, LENGTH), generator=torch.Generator().manual_seed(1))


class Collect:
    """A sink that puts the chunks of every layer together again."""

    def __init__(self) -> None:
        self.chunks: dict[int, list[AttentionRows]] = defaultdict(list)

    def __call__(self, rows: AttentionRows) -> None:
        self.chunks[rows.layer].append(rows)

    def rows(self) -> dict[int, Tensor]:
        return {i: torch.cat([c.weights for c in chunks], 1) for i, chunks in self.chunks.items()}

    def queries(self, layer: int) -> list[int]:
        return [at for chunk in self.chunks[layer] for at in chunk.queries.tolist()]


def check_outputs(chunk: AttentionRows) -> None:
    """What a layer returned is its values by the rows, dropped keys being those without a value."""
    kv_heads, kept, _ = chunk.values.shape
    query_heads, _, keys = chunk.weights.shape
    values = chunk.values.repeat_interleave(query_heads // kv_heads, dim=0)
    assert not chunk.weights[..., : keys - kept].any()
    torch.testing.assert_close(chunk.outputs, chunk.weights[..., keys - kept :] @ values, **CLOSE)


def reference(model: PreTrainedModel, ids: Tensor) -> dict[int, Tensor]:
    """Eager attention of every attention layer, ``[query_head, query, key]``, one full forward."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    attentions = model(ids, output_attentions=True, use_cache=False).attentions
    model.set_attn_implementation(before)
    layers = [module.layer_idx for module in model.modules() if hasattr(module, "is_causal")]
    return {layer: rows[0] for layer, rows in zip(layers, attentions, strict=True)}


@pytest.fixture(params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return build(request.param)


@torch.no_grad()
def test_rows_equal_eager_attention_and_the_logits_stay(model: PreTrainedModel) -> None:
    ids = tokens()
    config = model.config.to_dict()
    collect = Collect()
    output = observe(model, ids, collect, watch=slice(-5, None))
    expected = reference(model, ids)
    assert collect.rows().keys() == expected.keys()
    for layer, rows in collect.rows().items():
        torch.testing.assert_close(rows, expected[layer][:, -5:], **CLOSE)
        assert collect.queries(layer) == list(range(LENGTH - 5, LENGTH))
    assert torch.equal(output.logits, model(ids).logits)
    assert model.config.to_dict() == config


@torch.no_grad()
@pytest.mark.parametrize("every_position", [True, False], ids=["full-cache", "own-cache"])
def test_rows_of_prefill_and_decoding_equal_eager_attention(
    model: PreTrainedModel, every_position: bool
) -> None:
    ids = tokens()
    cache = PrefixCache(model, capacity=4) if every_position else DynamicCache(config=model.config)
    expected = reference(model, ids)
    for start, stop in [(0, PROMPT), *((n, n + 1) for n in range(PROMPT, LENGTH))]:
        collect = Collect()
        observe(model, ids[:, start:stop], collect, past_key_values=cache)
        assert collect.rows().keys() == expected.keys()
        for layer, rows in collect.rows().items():
            torch.testing.assert_close(rows, expected[layer][:, [stop - 1], :stop], **CLOSE)
            check_outputs(*collect.chunks[layer])


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma2", "gpt_oss"])
@pytest.mark.parametrize("chunk_bytes", [1, 2 * 4 * 4 * LENGTH])
def test_chunks_hold_the_same_rows(architecture: str, chunk_bytes: int) -> None:
    model, ids = build(architecture), tokens()
    whole, chunked = Collect(), Collect()
    observe(model, ids, whole, watch=slice(3, None))
    observe(model, ids, chunked, watch=slice(3, None), chunk_bytes=chunk_bytes)
    for layer, rows in whole.rows().items():
        torch.testing.assert_close(chunked.rows()[layer], rows, **CLOSE)
        assert chunked.queries(layer) == whole.queries(layer) == list(range(3, LENGTH))
        sizes = {len(chunk.queries) for chunk in chunked.chunks[layer]}
        assert sizes == ({1} if chunk_bytes == 1 else {2})
        for chunk in chunked.chunks[layer]:
            check_outputs(chunk)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["llama", "mistral", "gemma3_text", "gpt2"])
def test_a_model_loaded_with_eager_attention_is_observed_too(architecture: str) -> None:
    model, ids = build(architecture), tokens()
    expected = reference(model, ids)
    model.set_attn_implementation("eager")
    collect = Collect()
    output = observe(model, ids, collect, watch=slice(None))
    for layer, rows in collect.rows().items():
        torch.testing.assert_close(rows, expected[layer], **CLOSE)
    assert torch.equal(output.logits, model(ids).logits)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["llama", "mistral", "phi3"])
def test_flash_kernels_which_get_no_mask_are_observed(architecture: str) -> None:
    """No kernel runs here: a stand-in gets what a kernel gets, a window and no mask."""

    def kernel(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: None, **attention_kwargs: Any
    ):
        assert mask is None
        past = torch.arange(key.shape[2])
        distance = past[-query.shape[2] :, None] - past
        seen = (distance >= 0) & (distance < (attention_kwargs.get("sliding_window") or LENGTH))
        return sdpa_attention_forward(
            module, query, key, value, seen[None, None], **attention_kwargs
        )

    AttentionInterface.register("headprobe_test_flash", kernel)
    AttentionMaskInterface.register("headprobe_test_flash", flash_attention_mask)
    model, ids = build(architecture), tokens()
    expected = reference(model, ids)
    model.config._attn_implementation = "headprobe_test_flash"
    cache = DynamicCache(config=model.config)
    for start, stop in [(0, PROMPT), (PROMPT, LENGTH)]:
        collect = Collect()
        observe(
            model, ids[:, start:stop], collect, past_key_values=cache, watch=slice(-STEPS, None)
        )
        for layer, rows in collect.rows().items():
            wanted = expected[layer][:, stop - STEPS : stop, :stop]
            torch.testing.assert_close(rows, wanted, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("architecture", STRANGE)
def test_models_that_look_at_the_name_of_the_implementation_keep_their_logits(
    architecture: str,
) -> None:
    model, ids = build(architecture), tokens()
    collect = Collect()
    output = observe(model, ids, collect, watch=slice(-2, None), logits_to_keep=2)
    assert torch.equal(output.logits, model(ids, logits_to_keep=2).logits)
    for layer, rows in reference(model, ids).items():
        torch.testing.assert_close(collect.rows()[layer], rows[:, -2:], **CLOSE)


@torch.no_grad()
def test_the_text_part_of_a_model_with_vision_is_observed() -> None:
    text = COMMON | ARCHITECTURES["gemma3_text"]
    vision = {"hidden_size": 16, "intermediate_size": 16, "image_size": 28, "patch_size": 14}
    vision |= {"num_hidden_layers": 1, "num_attention_heads": 2}
    config = AutoConfig.for_model("gemma3", text_config=text, vision_config=vision)
    model, ids = AutoModelForCausalLM.from_config(config).eval(), tokens()
    collect = Collect()
    output = observe(model, ids, collect)
    assert list(collect.rows()) == [0, 1, 2, 3]
    assert torch.equal(output.logits, model(ids).logits)
    assert attention_layers(model) == (0, 1, 2, 3)
    heads = text["num_attention_heads"]
    values = torch.randn(heads, 3, model.get_decoder().layers[1].self_attn.head_dim)
    assert LogitAttribution(model, heads).logits(1, values, ids[0, :3]).shape == (heads, 3)


@torch.no_grad()
def test_half_precision_models_give_rows_in_float32(tiny_llama: PreTrainedModel) -> None:
    collect = Collect()
    observe(tiny_llama.bfloat16(), tokens(), collect)
    for rows in collect.rows().values():
        torch.testing.assert_close(rows.sum(-1), torch.ones(4, 1), rtol=0, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_registry_is_as_before_after_an_error_in_the_sink(
    tiny_llama: PreTrainedModel, implementation: str
) -> None:
    tiny_llama.set_attn_implementation(implementation)
    registered, config = dict(ALL_ATTENTION_FUNCTIONS), tiny_llama.config.to_dict()

    def fail(rows: AttentionRows) -> None:
        raise KeyError("sink")

    with pytest.raises(KeyError, match="sink"):
        observe(tiny_llama, tokens(), fail)
    assert dict(ALL_ATTENTION_FUNCTIONS) == registered
    assert tiny_llama.config.to_dict() == config


@torch.no_grad()
def test_a_sink_may_observe_another_model(tiny_llama: PreTrainedModel) -> None:
    registered = dict(ALL_ATTENTION_FUNCTIONS)
    other, ids = build("qwen3"), tokens()
    outer, inner, alone = Collect(), Collect(), Collect()

    def on_rows(rows: AttentionRows) -> None:
        outer(rows)
        observe(other, ids, inner)

    observe(tiny_llama, ids, on_rows)
    observe(tiny_llama, ids, alone)
    assert dict(ALL_ATTENTION_FUNCTIONS) == registered
    assert [len(chunks) for chunks in outer.chunks.values()] == [1, 1]
    assert [len(chunks) for chunks in inner.chunks.values()] == [2, 2, 2, 2]
    for layer, rows in alone.rows().items():
        assert torch.equal(outer.rows()[layer], rows)


@pytest.mark.parametrize("architecture", ["bloom", "falcon", "mpt"])
def test_architectures_outside_the_interface_are_named_in_one_line(architecture: str) -> None:
    model = build(architecture)
    with pytest.raises(
        HeadprobeError, match=f"cannot reach the attention of a '{architecture}' model"
    ) as error:
        observe(model, tokens(), Collect())
    assert "\n" not in str(error.value)


def test_a_forward_pass_that_reaches_no_attention_is_an_error(tiny_llama: PreTrainedModel) -> None:
    tiny_llama.model.layers = torch.nn.ModuleList()
    with pytest.raises(HeadprobeError, match="cannot reach the attention of a 'llama' model"):
        observe(tiny_llama, tokens(), Collect())


def test_a_soft_cap_under_sdpa_is_refused() -> None:
    model = build("gemma2")
    model.config._attn_implementation = "sdpa"
    with pytest.raises((HeadprobeError, ValueError), match=r"(?i)sdpa.*soft ?cap"):
        observe(model, tokens(), Collect())


def test_wrong_arguments_are_refused(tiny_llama: PreTrainedModel) -> None:
    with pytest.raises(ValueError, match="expected one sequence, got a batch of 2"):
        observe(tiny_llama, tokens().repeat(2, 1), Collect())
    with pytest.raises(ValueError, match="expected watch to pick some of 23 tokens"):
        observe(tiny_llama, tokens(), Collect(), watch=slice(40, 50))
    cache = StaticCache(config=tiny_llama.config, max_cache_len=32)
    with pytest.raises(ValueError, match="expected at most 23 keys, got 32"):
        observe(tiny_llama, tokens(), Collect(), past_key_values=cache)

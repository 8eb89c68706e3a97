"""Ablated heads against the same model with the output projection's weights at zero."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.pytorch_utils import Conv1D

from headprobe.ablation.ablated import ablated, mean_outputs
from headprobe.attention.kernels import share_heads
from headprobe.attention.observe import patched_attention
from headprobe.errors import HeadprobeError
from headprobe.models.layout import Head
from headprobe.models.loading import attention_layers
from tests._support.architectures import ARCHITECTURES, STATES, build

# gpt_bigcode, before transformers 5.20 or so.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is dep:DeprecationWarning")

PROMPT, STEPS = 20, 3
LENGTH = PROMPT + STEPS
CLOSE = {"rtol": 0, "atol": 2e-5}
PROJECTIONS = ("o_proj", "out_proj", "dense", "c_proj")
# A norm over all heads stands between attention and projection: ablation changes its size too.
NORMED = {"bitnet"}
PLAIN = sorted((ARCHITECTURES.keys() | STATES.keys()) - NORMED)


def tokens(seed: int = 1, length: int = LENGTH) -> Tensor:
    return torch.randint(3, 64, (1, length), generator=torch.Generator().manual_seed(seed))


def some_heads(model: PreTrainedModel) -> list[Head]:
    """Two heads of the first layer, all but one of the last."""
    layers = attention_layers(model)
    return [(layers[0], 0), (layers[0], 3), *((layers[-1], head) for head in (0, 1, 2))]


def projections(model: PreTrainedModel) -> dict[int, nn.Module]:
    """The output projection of every attention layer."""
    return {
        part.layer_idx: next(getattr(part, name) for name in PROJECTIONS if hasattr(part, name))
        for part in model.modules()
        if hasattr(part, "is_causal")
    }


def input_columns(projection: nn.Module) -> Tensor:
    """Its weights, the input dimension last."""
    return projection.weight.data.T if isinstance(projection, Conv1D) else projection.weight.data


def without(model: PreTrainedModel, heads: list[Head]) -> PreTrainedModel:
    """A copy whose output projections do not read the heads."""
    other = copy.deepcopy(model)
    for layer, head in heads:
        weights = input_columns(projections(other)[layer])
        width = weights.shape[1] // 4
        weights[:, head * width : (head + 1) * width] = 0
    return other


def prefill_and_decode(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """Logits of all tokens: the prompt in two pieces, then token by token."""
    cache = DynamicCache(config=model.config)
    pieces = [ids[:, :PROMPT], *ids[:, PROMPT:].split(1, dim=1)]
    return torch.cat([model(piece, past_key_values=cache).logits for piece in pieces], dim=1)


@torch.no_grad()
@pytest.mark.parametrize("architecture", PLAIN)
def test_ablation_equals_a_projection_that_does_not_read_the_heads(architecture: str) -> None:
    model, ids = build(architecture), tokens()
    heads = some_heads(model)
    expected = without(model, heads)
    with ablated(model, heads):
        found = model(ids, use_cache=False).logits
        decoded = prefill_and_decode(model, ids)
    torch.testing.assert_close(found, expected(ids, use_cache=False).logits, **CLOSE)
    torch.testing.assert_close(decoded, prefill_and_decode(expected, ids), **CLOSE)
    assert (found - model(ids, use_cache=False).logits).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("architecture", [name for name in PLAIN if name not in STATES])
def test_each_sequence_of_a_batch_has_heads_of_its_own_ablated(architecture: str) -> None:
    model, ids = build(architecture), tokens()
    layers = attention_layers(model)
    groups: list[list[Head]] = [[], some_heads(model), [(layers[-1], 1)]]
    with ablated(model, *groups):
        found = prefill_and_decode(model, ids.expand(3, -1))
    for row, heads in enumerate(groups):
        with ablated(model, heads):
            alone = prefill_and_decode(model, ids)
        torch.testing.assert_close(found[row : row + 1], alone, rtol=0, atol=1e-5)


def replace_inputs(
    model: PreTrainedModel, change: Callable[[int, Tensor], Tensor]
) -> PreTrainedModel:
    """A copy in which what goes into each layer's output projection passes through ``change``.

    It gets the layer and ``[batch, token, query_head, value_dim]``.
    """
    other = copy.deepcopy(model)
    for layer, projection in projections(other).items():

        def hook(_: nn.Module, inputs: tuple[Tensor], layer: int = layer) -> tuple[Tensor]:
            heads = inputs[0].unflatten(-1, (4, -1))
            return (change(layer, heads).flatten(-2),)

        projection.register_forward_pre_hook(hook)
    return other


@torch.no_grad()
@pytest.mark.parametrize(
    "architecture",
    ["llama", "mistral", "gemma2", "gpt2", "gpt_oss", "deepseek_v3", "lfm2", "jamba"],
)
@pytest.mark.parametrize("prefill_chunk", [2048, 7])
def test_the_mean_is_over_all_tokens_of_the_prompts(architecture: str, prefill_chunk: int) -> None:
    model = build(architecture)
    prompts = [tokens(2, 23), tokens(3, 9), tokens(4, 30)]
    put_out: dict[int, list[Tensor]] = {}

    def record(layer: int, heads: Tensor) -> Tensor:
        put_out.setdefault(layer, []).append(heads[0])
        return heads

    recorded = replace_inputs(model, record)
    for prompt in prompts:
        recorded(prompt, use_cache=False)
    means = mean_outputs(
        model, [prompt[0].tolist() for prompt in prompts], prefill_chunk=prefill_chunk
    )
    assert set(means) == set(attention_layers(model)) == set(put_out)
    for layer, seen in put_out.items():
        plain = sum(heads.double().sum(dim=0) for heads in seen) / (23 + 9 + 30)
        torch.testing.assert_close(means[layer], plain, **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "deepseek_v3", "lfm2"])
def test_ablated_heads_put_out_their_mean_at_every_token(architecture: str) -> None:
    model, ids = build(architecture), tokens()
    heads = some_heads(model)
    means = mean_outputs(model, [tokens(5)[0].tolist(), tokens(6)[0].tolist()])

    def put_mean(layer: int, outputs: Tensor) -> Tensor:
        outputs = outputs.clone()
        for place, head in heads:
            if place == layer:
                outputs[:, :, head] = means[layer][head].float()
        return outputs

    expected = replace_inputs(model, put_mean)
    with ablated(model, heads, means=means):
        found = model(ids, use_cache=False).logits
        decoded = prefill_and_decode(model, ids)
    torch.testing.assert_close(found, expected(ids, use_cache=False).logits, **CLOSE)
    torch.testing.assert_close(decoded, prefill_and_decode(expected, ids), **CLOSE)
    with ablated(model, heads):
        assert not torch.allclose(model(ids, use_cache=False).logits, found, atol=1e-3)


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_ablating_nothing_changes_nothing(tiny_llama: PreTrainedModel, implementation: str) -> None:
    tiny_llama.set_attn_implementation(implementation)
    ids = tokens()
    whole = tiny_llama(ids).logits
    with patched_attention(tiny_llama, share_heads):
        unablated = prefill_and_decode(tiny_llama, ids)
    with ablated(tiny_llama, []):
        assert torch.equal(tiny_llama(ids).logits, whole)
        assert torch.equal(prefill_and_decode(tiny_llama, ids), unablated)


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_the_model_is_as_before_whatever_ends_the_ablation(
    tiny_llama: PreTrainedModel, implementation: str
) -> None:
    tiny_llama.set_attn_implementation(implementation)
    ids, registered = tokens(), dict(ALL_ATTENTION_FUNCTIONS)
    before, config = tiny_llama(ids).logits, tiny_llama.config.to_dict()

    def fail_inside() -> None:
        with ablated(tiny_llama, [(0, 1)]):
            assert not torch.equal(tiny_llama(ids).logits, before)
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail_inside()
    assert torch.equal(tiny_llama(ids).logits, before)
    assert dict(ALL_ATTENTION_FUNCTIONS) == registered
    assert tiny_llama.config.to_dict() == config


@torch.no_grad()
def test_ablated_heads_stay_silent_under_generate(tiny_llama: PreTrainedModel) -> None:
    heads: list[Head] = [(0, 0), (1, 2), (1, 3)]
    ids = tokens()
    how: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    expected = without(tiny_llama, heads).generate(ids, **how)
    assert not torch.equal(tiny_llama.generate(ids, **how), expected)
    with ablated(tiny_llama, heads):
        assert torch.equal(tiny_llama.generate(ids, **how), expected)


@torch.no_grad()
def test_other_models_are_let_through(tiny_llama: PreTrainedModel) -> None:
    other, ids = build("qwen3"), tokens()
    alone = other(ids).logits
    with ablated(tiny_llama, [(0, 0), (1, 0)]):
        assert torch.equal(other(ids).logits, alone)


@torch.no_grad()
def test_half_precision_stays_half_precision(tiny_llama: PreTrainedModel) -> None:
    model = tiny_llama.bfloat16()
    means = mean_outputs(model, [tokens()[0].tolist()])
    for by in (None, means):
        with ablated(model, [(0, 0)], means=by):
            assert model(tokens()).logits.dtype == torch.bfloat16


@pytest.mark.parametrize("head", [(0, 4), (4, 0), (-1, 0), (0, -1)])
def test_heads_that_are_not_there_are_refused(tiny_llama: PreTrainedModel, head: Head) -> None:
    with pytest.raises(ValueError, match="expected heads 0 to 3 of layers 0, 1"):
        ablated(tiny_llama, [head]).__enter__()


def test_layers_without_attention_have_no_heads_to_ablate() -> None:
    with pytest.raises(ValueError, match="of layers 1, 2, got 0-0"):
        ablated(build("lfm2"), [(0, 0)]).__enter__()


def test_architectures_outside_the_interface_are_named() -> None:
    with pytest.raises(HeadprobeError, match="cannot reach the attention of a 'bloom' model"):
        ablated(build("bloom"), []).__enter__()

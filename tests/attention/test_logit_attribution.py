"""What heads write to the logits, against the model's own modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headprobe.attention.logit_attribution import LogitAttribution
from headprobe.attention.observe import observe
from headprobe.attention.rows import AttentionRows
from headprobe.errors import HeadprobeError
from tests._support.architectures import ARCHITECTURES, STATES, STRANGE, build
from tests._support.reference import places

HEADS = 4
# These do something to the heads' outputs before they are projected.
BETWEEN = ("bitnet", "qwen3_next")


def through_the_norm(norm: nn.Module, vector: Tensor) -> Tensor:
    """What a norm makes of a vector, without its division and its bias."""
    centred = "LayerNorm" in type(norm).__name__
    spread = vector - vector.mean(dim=-1, keepdim=True) if centred else vector
    length = spread.square().mean(dim=-1, keepdim=True).sqrt()
    bias = getattr(norm, "bias", None)
    made = norm(1000 * vector)
    return length * (made if bias is None else made - bias)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, *STRANGE, *STATES])
@torch.no_grad()
def test_the_heads_add_up_to_what_the_layers_attention_adds(architecture: str) -> None:
    model = build(architecture)
    projection, norm = places(architecture)
    final = model.get_submodule(norm)
    for weight in final.parameters():
        nn.init.normal_(weight, mean=0.5, std=0.5)
    seen: dict[int, AttentionRows] = {}
    added: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(module: Any, _: Any, output: Tensor) -> None:
            bias = getattr(module, "bias", None)
            added[layer] = output[0] if bias is None else output[0] - bias

        return hook

    for part in model.modules():
        if hasattr(part, "is_causal"):
            path = projection.format(part.layer_idx)
            model.get_submodule(path).register_forward_hook(keep(part.layer_idx))
    ids = torch.randint(3, 64, (1, 24), generator=torch.Generator().manual_seed(0))
    observe(
        model,
        ids,
        lambda rows: seen.setdefault(rows.layer, rows) and None,
        watch=slice(None),
        use_cache=False,
    )
    attribution = LogitAttribution(model, HEADS)
    tokens = torch.arange(24)
    unembedding = model.get_output_embeddings().weight[tokens]
    assert seen.keys() == added.keys()
    for layer, rows in seen.items():
        logits = attribution.logits(layer, rows.outputs, tokens)
        assert logits.shape == (HEADS, 24)
        if architecture not in BETWEEN:
            expected = (unembedding * through_the_norm(final, added[layer])).sum(dim=-1)
            torch.testing.assert_close(logits.sum(dim=0), expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_values_padded_by_a_kernel_count_as_they_are() -> None:
    model = build("llama")
    outputs = torch.randn(HEADS, 2, 8, generator=torch.Generator().manual_seed(0))
    padded = nn.functional.pad(outputs, (0, 4), value=7.0)
    attribution, tokens = LogitAttribution(model, HEADS), torch.tensor([5, 6])
    assert torch.equal(
        attribution.logits(1, padded, tokens), attribution.logits(1, outputs, tokens)
    )


@torch.no_grad()
def test_half_precision_reads_as_its_own_weights_in_full(tiny_llama: nn.Module) -> None:
    outputs = torch.randn(HEADS, 2, 8, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([5, 6])
    half = LogitAttribution(tiny_llama.bfloat16(), HEADS).logits(0, outputs, tokens)
    full = LogitAttribution(tiny_llama.float(), HEADS).logits(0, outputs, tokens)
    torch.testing.assert_close(half, full, rtol=1e-3, atol=1e-3)


def without_projection(model: Any) -> None:
    del model.model.layers[1].self_attn.o_proj


def quantised(model: Any) -> None:
    shape = model.model.layers[1].self_attn.o_proj.weight.shape
    packed = nn.Parameter(torch.zeros(shape, dtype=torch.uint8), requires_grad=False)
    model.model.layers[1].self_attn.o_proj.weight = packed


def offloaded(model: Any) -> None:
    model.to("meta")


def without_norm(model: Any) -> None:
    model.model.norm, model.model.strange = None, model.model.norm


def without_unembedding(model: Any) -> None:
    model.lm_head = None


@pytest.mark.parametrize(
    ("spoil", "missing"),
    [
        (without_projection, "output projection"),
        (quantised, "output projection"),
        (offloaded, "unembedding"),
        (without_norm, "final norm"),
        (without_unembedding, "unembedding"),
    ],
)
def test_what_cannot_be_found_is_named_with_the_kind_of_model(spoil: Any, missing: str) -> None:
    model = build("llama")
    spoil(model)
    with pytest.raises(HeadprobeError) as error:
        LogitAttribution(model, HEADS)
    assert f"cannot find the {missing} of this 'llama' model" in error.value.message
    assert "`measures`" in error.value.message

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from headprobe.attention.finite import (
    NotFinite,
    check_model,
    check_weights,
    first_broken_layer,
    not_finite,
    require_finite_logits,
    require_finite_scores,
)
from headprobe.errors import HeadprobeError
from headprobe.models.config import head_layout
from headprobe.models.loading import LoadedModel

PROMPT = list(range(3, 40))


@pytest.fixture
def overflowing(tiny_llama: Any) -> LoadedModel:
    """Weights that are fine, and a layer whose output float16 cannot hold."""
    tiny_llama.model.layers[1].mlp.down_proj.weight.data.mul_(1e4)
    tiny_llama.model.layers[1].mlp.up_proj.weight.data.mul_(1e4)
    return loaded(tiny_llama.half())


def loaded(model: Any) -> LoadedModel:
    return LoadedModel(
        name="tiny",
        model=model,
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"w": 0}))),
        layout=head_layout(model.config, id="tiny"),
        max_context=None,
        fingerprint="",
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_one_logit_that_is_no_number_is_found(value: float, dtype: torch.dtype) -> None:
    logits = torch.zeros(1, 3, 8, dtype=dtype)
    require_finite_logits(logits)
    logits[0, 1, 5] = value
    with pytest.raises(NotFinite):
        require_finite_logits(logits)


def test_tokens_that_a_model_masks_are_no_overflow() -> None:
    logits = torch.zeros(2, 8)
    logits[:, 3] = -torch.inf
    require_finite_logits(logits)
    with pytest.raises(NotFinite):
        require_finite_logits(logits - torch.inf)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_score_that_is_no_number_is_found(value: float) -> None:
    scores = np.zeros((2, 3), dtype=np.float32)
    require_finite_scores(scores)
    scores[1, 2] = value
    with pytest.raises(NotFinite):
        require_finite_scores(scores)


def test_an_overflow_names_the_first_layer_and_another_type(overflowing: LoadedModel) -> None:
    assert str(not_finite(overflowing, PROMPT)) == (
        "tiny: the output of layer 1 is not finite in float16; try `dtype=bfloat16`"
    )


def test_a_layer_is_found_after_the_first_pieces_of_a_prompt(
    tiny_llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headprobe.attention.finite._PIECE", 8)
    model = loaded(tiny_llama)
    assert first_broken_layer(model, PROMPT) is None
    tiny_llama.model.embed_tokens.weight.data[PROMPT[-1]] = torch.inf
    assert first_broken_layer(model, PROMPT) == "the embedding"
    assert first_broken_layer(model, PROMPT[:-1]) is None


def test_the_model_is_left_without_hooks(overflowing: LoadedModel) -> None:
    first_broken_layer(overflowing, PROMPT)
    assert not any(part._forward_hooks for part in overflowing.model.modules())


def test_damaged_weights_are_named(tiny_llama: Any) -> None:
    check_weights(loaded(tiny_llama))
    tiny_llama.model.layers[0].self_attn.v_proj.weight.data[3] = torch.nan
    expected = "tiny: the weight model.layers.0.self_attn.v_proj.weight is not finite in float32"
    with pytest.raises(HeadprobeError, match=expected):
        check_weights(loaded(tiny_llama))
    assert "download or copy it again" in str(not_finite(loaded(tiny_llama), PROMPT))


@pytest.mark.parametrize(
    ("weight", "factor", "place"),
    [
        ("model.layers.1.mlp.down_proj.weight", 1e30, "the output of layer 1"),
        ("model.layers.1.self_attn.o_proj.weight", 1e20, "the output of layer 1"),
        ("model.layers.1.self_attn.q_proj.weight", 1e30, "attention in layer 1"),
        ("model.layers.0.input_layernorm.weight", 1e9, "attention in layer 0"),
        ("model.norm.weight", 1e30, "the output of the last layer"),
        ("model.embed_tokens.weight", 1e30, "the output of the embedding"),
    ],
)
def test_huge_numbers_that_stay_finite_are_refused_with_the_layer_and_the_weight(
    tiny_llama: Any, weight: str, factor: float, place: str
) -> None:
    check_model(loaded(tiny_llama), PROMPT)
    assert first_broken_layer(loaded(tiny_llama), PROMPT) is None
    tiny_llama.get_parameter(weight).data.mul_(factor)
    with pytest.raises(HeadprobeError, match=f"{place} reaches .* its largest weight is {weight}"):
        check_model(loaded(tiny_llama), PROMPT)


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_the_first_tokens_show_weights_of_one_head_that_are_no_numbers(
    tiny_llama: Any, value: float
) -> None:
    tiny_llama.model.layers[1].self_attn.q_proj.weight.data[8:16] = value
    with pytest.raises(HeadprobeError, match=r"layers\.1\.self_attn\.q_proj\.weight is not finite"):
        check_model(loaded(tiny_llama), PROMPT)
    assert not any(part._forward_hooks for part in tiny_llama.modules())


def test_an_overflow_in_float32_says_that_weights_may_be_damaged(tiny_llama: Any) -> None:
    tiny_llama.model.layers[0].mlp.down_proj.weight.data.mul_(1e38)
    tiny_llama.model.layers[0].mlp.up_proj.weight.data.mul_(1e30)
    message = str(not_finite(loaded(tiny_llama), PROMPT))
    assert "layer 0 is not finite in float32; the weights may be damaged" in message

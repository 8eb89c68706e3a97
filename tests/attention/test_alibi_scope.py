"""The bound against attention as the models compute it, and against plain formulas."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.falcon.modeling_falcon import build_alibi_tensor as falcon_bias

from headprobe.allocators.mixing import WeightedRun, allocate_runs
from headprobe.attention.alibi_scope import scopes
from headprobe.errors import HeadprobeError, UsageError
from headprobe.models.config import head_layout
from headprobe.models.loading import LoadedModel
from headprobe.runs.score_weights import score_weights
from headprobe.scores import HeadScores

HIDDEN, LENGTH = 48, 300
COMMON = {"vocab_size": 64, "hidden_size": HIDDEN}
FALCON = {"num_hidden_layers": 2, "num_attention_heads": 6, "alibi": True, **COMMON}
MPT = {"d_model": HIDDEN, "n_layers": 2, "n_heads": 6, "max_seq_len": LENGTH, "vocab_size": 64}
# Six heads are no power of two: their slopes are put together from two sequences.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "bloom": ("bloom", {"n_layer": 2, "n_head": 6, **COMMON}),
    "falcon": (
        "falcon",
        {"multi_query": False, "parallel_attn": False, "bias": True, **FALCON},
    ),
    "falcon, one KV head": ("falcon", FALCON),
    "falcon, grouped": (
        "falcon",
        {"new_decoder_architecture": True, "num_kv_heads": 2, "bias": True, **FALCON},
    ),
    "mpt": ("mpt", MPT),
    "mpt, clipped": ("mpt", {"attn_config": {"clip_qkv": 0.3}, **MPT}),
    "mpt, scaled": ("mpt", {"attn_config": {"softmax_scale": 1.0}, **MPT}),
}


def build(name: str, *, spread: float, seed: int = 0) -> Any:
    """A tiny model whose projections, biases and norms are all random."""
    torch.manual_seed(seed)
    architecture, fields = MODELS[name]
    config = AutoConfig.for_model(architecture, **fields)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for part, weight in model.named_parameters():
            if "norm" in part or part.split(".")[-2].startswith("ln"):
                weight.copy_(torch.randn_like(weight).exp() if weight.mean() else weight)
                if part.endswith("bias"):
                    weight.normal_(std=0.5)
            elif "query_key_value" in part or "Wqkv" in part:
                weight.normal_(std=spread)
    return model


@torch.no_grad()
def attention(model: Any, length: int = LENGTH) -> Tensor:
    """The weights that the model computes, layer query_head query key.

    Falcon's under SDPA, from what it hands over: its eager attention adds the bias twice.
    """
    ids = torch.randint(0, 64, (1, length), generator=torch.Generator().manual_seed(1))
    if model.config.model_type != "falcon":
        return torch.cat(model(ids, output_attentions=True, use_cache=False).attentions)
    seen = []

    def watched(query: Tensor, key: Tensor, value: Tensor, **attention_kwargs: Any) -> Tensor:
        assert not attention_kwargs["is_causal"]
        logits = query @ key.mT / query.shape[-1] ** 0.5 + attention_kwargs["attn_mask"]
        seen.append(logits.softmax(dim=-1))
        return seen[-1] @ value.expand_as(query)

    with mock.patch("torch.nn.functional.scaled_dot_product_attention", watched):
        model(ids, use_cache=False)
    return torch.cat(seen)


@pytest.mark.parametrize("epsilon", [1e-5, 1e-2])
@pytest.mark.parametrize("spread", [0.0, 0.01, 0.03])
@pytest.mark.parametrize("name", MODELS)
def test_no_weight_beyond_the_scope_is_above_epsilon(
    name: str, spread: float, epsilon: float
) -> None:
    model = build(name, spread=spread)
    bound = scopes(model, epsilon=epsilon)[:, :, None, None]
    distance = torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)
    weights = attention(model)
    beyond = (distance >= bound).expand_as(weights)
    assert beyond.any()
    assert weights[beyond].max() <= epsilon * (1 + 1e-4)


def test_falcons_distances_are_off_by_no_more_than_is_allowed_for() -> None:
    bias = falcon_bias(torch.ones(1, 2048, dtype=torch.long), 6, torch.float32)[:, 0]
    slope = bias[:, 1:2] - bias[:, :1]
    told = (bias[:, :, None] - bias[:, None]) / slope[..., None]
    short = torch.arange(2048)[:, None] - torch.arange(2048) - told
    assert 4 < short.tril().max() <= 2048 / 256


@pytest.mark.parametrize("name", MODELS)
def test_without_logits_the_scope_is_where_the_bias_alone_reaches_epsilon(name: str) -> None:
    model = build(name, spread=0.0)
    weights = attention(model, length=100)[:, :, -1].flip(-1)
    rate = -(weights[..., 1] / weights[..., 0]).log()
    blur = 2048 / 256 if "falcon" in name else 0
    torch.testing.assert_close(scopes(model) - blur, -math.log(1e-5) / rate, rtol=1e-3, atol=0)


@torch.no_grad()
def plain_logit(query: Tensor, key: Tensor, gamma: Tensor, beta: Tensor, scale: float) -> float:
    """The paper's bound, word by word: ||W_Q W_K^T||_2 (||gamma||^2 + ||beta||^2)."""
    product = torch.linalg.matrix_norm(query.T @ key, ord=2)
    return float(product * scale * (gamma.norm() ** 2 + beta.norm() ** 2))


def test_where_the_papers_conditions_hold_the_scope_is_the_papers() -> None:
    model = build("bloom", spread=0.3)
    for block in model.transformer.h:
        torch.nn.init.constant_(block.input_layernorm.weight, 0.7)
        torch.nn.init.zeros_(block.input_layernorm.bias)
        torch.nn.init.zeros_(block.self_attention.query_key_value.bias)
    slopes = [0.25, 0.0625, 0.015625, 0.00390625, 0.5, 0.125]
    expected = []
    for block in model.transformer.h:
        fused = block.self_attention.query_key_value.weight.view(6, 3, HIDDEN // 6, HIDDEN)
        norm = block.input_layernorm
        logits = [
            plain_logit(head[0], head[1], norm.weight, norm.bias, (HIDDEN // 6) ** -0.5)
            for head in fused
        ]
        expected.append(
            [(2 * s - math.log(1e-5)) / slope for s, slope in zip(logits, slopes, strict=True)]
        )
    torch.testing.assert_close(scopes(model), torch.tensor(expected), rtol=1e-4, atol=0)


@torch.no_grad()
def largest_logits(model: Any) -> Tensor:
    """The largest logit of any two of many vectors that the norm may let through, a head."""
    found = []
    for block in model.transformer.h:
        norm, attend = block.input_layernorm, block.self_attention
        vectors = torch.randn(2000, HIDDEN, generator=torch.Generator().manual_seed(2))
        vectors = torch.cat([vectors, 50 * torch.eye(HIDDEN), -50 * torch.eye(HIDDEN)])
        fused = attend.query_key_value(norm(vectors)).view(len(vectors), 6, 3, -1)
        query, key = fused[:, :, 0].transpose(0, 1), fused[:, :, 1].transpose(0, 1)
        found.append((query @ key.mT).abs().amax(dim=(1, 2)) * attend.inv_norm_factor)
    return torch.stack(found)


@pytest.mark.parametrize("seed", range(5))
def test_the_bound_on_logits_holds_where_the_papers_own_does_not(seed: int) -> None:
    model = build("bloom", spread=0.1, seed=seed)
    for block in model.transformer.h:
        # One gamma above the others: a vector along it gets sqrt(hidden) times that gamma.
        torch.nn.init.constant_(block.input_layernorm.weight, 0.01)
        torch.nn.init.zeros_(block.input_layernorm.bias)
        block.input_layernorm.weight.data[3] = 3.0
    slope = 1 / torch.tensor([4.0, 16, 64, 256, 2, 8])
    bound = (scopes(model) * slope + math.log(1e-5)) / 2
    found = largest_logits(model)
    assert (found <= bound * (1 + 1e-4)).all()
    norm = model.transformer.h[0].input_layernorm
    fused = model.transformer.h[0].self_attention.query_key_value.weight.view(6, 3, -1, HIDDEN)
    papers = [
        plain_logit(head[0], head[1], norm.weight, norm.bias, (HIDDEN // 6) ** -0.5)
        for head in fused
    ]
    assert (found[0] > torch.tensor(papers)).any()


@pytest.mark.parametrize(
    ("architecture", "fields"), [("falcon", {**FALCON, "alibi": False}), ("opt", {})]
)
def test_a_model_without_alibi_is_refused(architecture: str, fields: dict[str, Any]) -> None:
    size = {"hidden_size": 48, "num_hidden_layers": 1, "num_attention_heads": 6, "vocab_size": 64}
    config = AutoConfig.for_model(architecture, **size | fields)
    model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(HeadprobeError, match=f"this is a '{architecture}' model without it"):
        scopes(model)


@pytest.fixture
def loaded() -> LoadedModel:
    model = build("falcon, grouped", spread=0.02)
    return LoadedModel(
        name="tiny",
        model=model,
        tokenizer=PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({}))),
        layout=head_layout(model.config, id="tiny"),
        max_context=LENGTH,
        fingerprint="f" * 16,
    )


def test_a_run_from_the_weights_is_a_run_that_allocate_takes(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    result = score_weights(loaded, task="alibi", out=tmp_path)
    run = HeadScores.load(tmp_path)
    np.testing.assert_array_equal(run.mean("alibi"), scopes(loaded.model).numpy())
    np.testing.assert_array_equal(run.mean("alibi"), result.mean("alibi"))
    assert json.loads((tmp_path / "run.json").read_text())["status"] == "complete"
    assert len((tmp_path / "heads.csv").read_text().splitlines()) == 1 + 12
    assert not (tmp_path / "cases.parquet").exists()
    source = WeightedRun(name="run", scores=run)
    budgets = allocate_runs([source], strategy="alibi", context_length=2000)
    widest = run.mean("alibi").reshape(2, 2, 3).max(axis=-1)
    assert (budgets.ratio == (widest > 1999)).all()
    assert (budgets.kept(2000) == np.ceil(widest).clip(max=2000)).all()


def test_a_directory_of_another_run_is_not_written_over_unasked(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    score_weights(loaded, task="alibi", out=tmp_path)
    score_weights(loaded, task="alibi", out=tmp_path)
    run = json.loads((tmp_path / "run.json").read_text())
    other = LoadedModel(**{**vars(loaded), "fingerprint": "0" * 16})
    with pytest.raises(UsageError, match=r'model_digest was "f{16}", now "0{16}"'):
        score_weights(other, task="alibi", out=tmp_path)
    assert json.loads((tmp_path / "run.json").read_text()) == run
    score_weights(other, task="alibi", out=tmp_path, overwrite=True)
    assert HeadScores.load(tmp_path).plan["model_digest"] == "0" * 16

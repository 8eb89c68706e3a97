"""Mean queries against hooks on what makes them: q_norm where a layer has one, else q_proj."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headprobe.attention.query_statistics import query_statistics, require_statistics
from headprobe.errors import HeadprobeError
from headprobe.models.loading import LoadedModel
from tests._support.reference import tiny
from tests._support.refusals import refused

TEXTS = [tuple(range(5, 45)), tuple(range(100, 90, -1))]
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "qwen3": ("qwen3", {}),
    "gemma3": ("gemma3_text", {"num_hidden_layers": 6}),
    "scaled": ("llama", {"rope_parameters": LLAMA3}),
    "yarn": ("llama", {"rope_parameters": YARN}),
    "partial": ("phi", {}),
    "interleaved": ("glm", {}),
    "cohere": ("cohere", {}),
    "some layers": ("smollm3", {"no_rope_layers": [1, 0, 1, 0]}),
    "a state": ("lfm2", {}),
    "in one piece": ("jamba", {}),
}


def hooked(loaded: LoadedModel, head_dim: int) -> dict[int, np.ndarray]:
    """Each layer's queries of all texts in whole passes, ``[query head, token, head_dim]``."""
    found: dict[int, list[Tensor]] = {}

    def keep(layer: int) -> Any:
        def hook(module: nn.Module, args: Any, output: Tensor) -> None:
            # Gemma 3 normalises after it has put the heads first.
            heads_first = output.ndim == 4 and output.shape[1] == loaded.layout.num_heads
            rows = output[0] if heads_first else output[0].reshape(output.shape[1], -1, head_dim)
            found.setdefault(layer, []).append(
                (rows if heads_first else rows.transpose(0, 1)).double()
            )

        return hook

    with ExitStack() as handles, torch.no_grad():
        for layer in (one for one in loaded.model.modules() if hasattr(one, "q_proj")):
            norm = getattr(layer, "q_norm", None) or getattr(layer, "q_layernorm", None)
            made = (norm or layer.q_proj).register_forward_hook(keep(layer.layer_idx))
            handles.callback(made.remove)
        for text in TEXTS:
            loaded.model(torch.tensor([text]), use_cache=False)
    return {layer: torch.cat(parts, dim=1).numpy() for layer, parts in found.items()}


@pytest.mark.parametrize("name", [name for name in MODELS if name != "in one piece"])
def test_the_means_equal_those_of_hooks(name: str) -> None:
    architecture, changes = MODELS[name]
    loaded, _ = tiny(architecture, **changes)
    found = query_statistics(loaded, TEXTS, prefill_chunk=16)
    assert found.header["tokens"] == 50
    plain = hooked(loaded, found.head_dim)
    assert set(found.layers.tolist()) <= set(plain)
    width = found.rotary_dim
    for place, layer in enumerate(found.layers.tolist()):
        queries = plain[layer]
        turned = queries[..., :width]
        if found.header["rope_style"] == "half":
            numbers = turned[..., : width // 2] + 1j * turned[..., width // 2 :]
        else:
            numbers = turned[..., ::2] + 1j * turned[..., 1::2]
        for tensor, expected in (
            (found.q_mean_real, numbers.mean(axis=1).real),
            (found.q_mean_imag, numbers.mean(axis=1).imag),
            (found.q_abs_mean, np.abs(numbers).mean(axis=1)),
            (found.q_pass_mean, queries[..., width:].mean(axis=1)),
        ):
            np.testing.assert_allclose(tensor[place], expected, rtol=1e-4, atol=1e-5)
    assert np.abs(found.q_mean_real).max() > 1e-3


def rotary(loaded: LoadedModel) -> Iterator[nn.Module]:
    return (one for one in loaded.model.modules() if type(one).__name__.endswith("RotaryEmbedding"))


@pytest.mark.parametrize("name", ["llama", "qwen3", "scaled", "yarn", "partial", "interleaved"])
def test_frequencies_and_scale_are_those_of_the_model(name: str) -> None:
    architecture, changes = MODELS[name]
    loaded, _ = tiny(architecture, **changes)
    found = query_statistics(loaded, TEXTS[1:], prefill_chunk=16)
    module: Any = next(rotary(loaded))
    for own, scale in zip(found.inv_freq, found.freq_scale, strict=True):
        np.testing.assert_allclose(own, module.inv_freq.numpy(), rtol=1e-4)
        np.testing.assert_allclose(scale, module.attention_scaling, rtol=1e-5)
    assert found.header["rope_style"] == ("interleaved" if name == "interleaved" else "half")
    assert found.is_plain == (name in ("llama", "qwen3"))
    assert (found.rotary_dim < found.head_dim) == (name in ("partial", "interleaved"))


def test_kinds_of_layers_have_frequencies_of_their_own() -> None:
    loaded, _ = tiny(*MODELS["gemma3"][:1], **MODELS["gemma3"][1])
    found = query_statistics(loaded, TEXTS[1:], prefill_chunk=16)
    kinds = loaded.model.config.layer_types
    assert set(kinds) == {"sliding_attention", "full_attention"}
    for kind in set(kinds):
        own = [found.inv_freq[layer] for layer, other in enumerate(kinds) if other == kind]
        theta = loaded.model.config.rope_parameters[kind]["rope_theta"]
        plain = theta ** (-2 * np.arange(found.rotary_dim // 2) / found.rotary_dim)
        np.testing.assert_allclose(own, np.broadcast_to(plain, (len(own), plain.size)), rtol=1e-4)
    assert not found.is_plain
    assert found.header["rope_theta"] is None


def test_layers_that_do_not_rotate_are_left_out() -> None:
    loaded, _ = tiny(*MODELS["some layers"][:1], **MODELS["some layers"][1])
    found = query_statistics(loaded, TEXTS[1:], prefill_chunk=16)
    assert found.layers.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("architecture", "why"),
    [
        ("gpt2", "does not rotate queries"),
        ("deepseek_v3", "cannot follow the rotary embedding"),
        ("llama4_text", "cannot follow the rotary embedding"),
        ("jamba", "does not rotate queries"),
    ],
)
def test_a_model_whose_queries_cannot_be_had_is_refused(architecture: str, why: str) -> None:
    loaded, _ = tiny(architecture)
    with refused(f"{why}.*`statistics`", kind=HeadprobeError):
        require_statistics(loaded)

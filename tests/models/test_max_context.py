from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoConfig

from headprobe.errors import HeadprobeWarning, UsageError
from headprobe.models.max_context import allow_context, max_context

LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN4 = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768}
LONG = {"long_factor": [1.0] * 48, "short_factor": [1.0] * 48}
SMALL = {"num_hidden_layers": 2}

# What the published config.json of a model says, and the window that its makers state.
PUBLISHED: dict[str, tuple[str, dict[str, Any], int]] = {
    "Llama-2-7b-chat": ("llama", {"max_position_embeddings": 4096}, 4096),
    "Llama-3.1-8B": (
        "llama",
        {
            "max_position_embeddings": 131_072,
            "rope_scaling": {**LLAMA3, "factor": 8.0, "original_max_position_embeddings": 8192},
        },
        131_072,
    ),
    # 32 times 8,192 is twice what it was made for.
    "Llama-3.2-1B": (
        "llama",
        {
            "max_position_embeddings": 131_072,
            "rope_scaling": {**LLAMA3, "factor": 32.0, "original_max_position_embeddings": 8192},
        },
        131_072,
    ),
    "vicuna-7b-v1.5-16k": (
        "llama",
        {"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}},
        16_384,
    ),
    "Yarn-Llama-2-7b-128k": (
        "llama",
        {
            "max_position_embeddings": 4096,
            "rope_scaling": {
                "type": "yarn",
                "factor": 32.0,
                "original_max_position_embeddings": 4096,
            },
        },
        131_072,
    ),
    "a Llama 2 with dynamic NTK": (
        "llama",
        {"max_position_embeddings": 4096, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
        8192,
    ),
    "Qwen2.5-7B-Instruct": ("qwen2", {"max_position_embeddings": 32_768}, 32_768),
    "Qwen2.5-7B-Instruct with yarn": (
        "qwen2",
        {"max_position_embeddings": 32_768, "rope_scaling": YARN4},
        131_072,
    ),
    "Qwen3-8B": ("qwen3", {"max_position_embeddings": 40_960}, 40_960),
    "Qwen3-8B with yarn": (
        "qwen3",
        {"max_position_embeddings": 40_960, "rope_scaling": YARN4},
        131_072,
    ),
    "Phi-3-mini-4k": ("phi3", {"max_position_embeddings": 4096}, 4096),
    "Phi-3-mini-128k": (
        "phi3",
        {
            "max_position_embeddings": 131_072,
            "original_max_position_embeddings": 4096,
            "rope_scaling": {"type": "longrope", **LONG},
        },
        131_072,
    ),
    "gemma-3-270m": ("gemma3_text", {"max_position_embeddings": 32_768}, 32_768),
    "gemma-3-4b": (
        "gemma3",
        {
            "text_config": {
                "max_position_embeddings": 131_072,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
            }
        },
        131_072,
    ),
    "DeepSeek-V3": (
        "deepseek_v3",
        {
            "max_position_embeddings": 163_840,
            "rope_scaling": {
                "type": "yarn",
                "factor": 40,
                "original_max_position_embeddings": 4096,
                "beta_fast": 32,
                "beta_slow": 1,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
            },
        },
        163_840,
    ),
    "gpt-oss-20b": (
        "gpt_oss",
        {
            "max_position_embeddings": 131_072,
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 32.0,
                "original_max_position_embeddings": 4096,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
            },
        },
        131_072,
    ),
    "Mistral-7B-v0.2": ("mistral", {"max_position_embeddings": 32_768}, 32_768),
    "gpt2": ("gpt2", {"n_positions": 1024}, 1024),
}


def config(architecture: str, fields: dict[str, Any]) -> Any:
    return AutoConfig.for_model(architecture, **SMALL | fields)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_window_is_the_one_that_the_configuration_means(name: str) -> None:
    architecture, fields, expected = PUBLISHED[name]
    assert max_context(config(architecture, fields)) == expected


def test_a_model_without_positions_has_no_window() -> None:
    assert max_context(AutoConfig.for_model("bloom")) is None
    assert allow_context(AutoConfig.for_model("bloom"), 5000, name="x") == 5000


def test_a_smaller_window_is_taken_without_a_word() -> None:
    assert allow_context(config("llama", {}), 100, name="x") == 100
    assert allow_context(config("llama", {}), None, name="x") == 2048


def test_a_larger_window_than_the_model_s_is_said() -> None:
    with pytest.warns(HeadprobeWarning, match="x was made for 2,048 .*`max_context=5000`"):
        assert allow_context(config("llama", {}), 5000, name="x") == 5000


def test_learned_positions_cannot_be_added() -> None:
    with pytest.raises(UsageError, match="x has 1,024 learned positions and no more"):
        allow_context(config("gpt2", {}), 5000, name="x")

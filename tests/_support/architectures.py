"""Tiny models of many architectures, with random weights."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from packaging.version import Version
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    __version__,
)

WINDOW = 8
COMMON = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {"num_key_value_heads": 2}
MOE = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2}
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "moe_intermediate_size": 16,
    "first_k_dense_replace": 1,
}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "mistral": GROUPED | {"sliding_window": WINDOW},
    "qwen2": GROUPED,
    "qwen3": GROUPED | {"head_dim": 8},
    "qwen2_moe": GROUPED
    | MOE
    | {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    "qwen3_moe": GROUPED | MOE | {"moe_intermediate_size": 16, "head_dim": 8},
    "gemma": GROUPED | {"head_dim": 16},
    "gemma2": GROUPED | {"head_dim": 16, "sliding_window": WINDOW, "attn_logit_softcapping": 2.0},
    "gemma3_text": GROUPED | {"head_dim": 16, "sliding_window": WINDOW},
    "phi": GROUPED,
    "phi3": GROUPED | {"sliding_window": WINDOW},
    "cohere": GROUPED,
    "cohere2": GROUPED | {"sliding_window": WINDOW},
    "olmo": GROUPED,
    "olmo2": GROUPED,
    "olmo3": GROUPED | {"sliding_window": WINDOW},
    "granite": GROUPED | {"attention_multiplier": 0.5},
    "starcoder2": GROUPED | {"sliding_window": WINDOW},
    "stablelm": GROUPED,
    "mixtral": GROUPED | MOE | {"sliding_window": WINDOW},
    "glm": GROUPED | {"head_dim": 8},
    "glm4": GROUPED | {"head_dim": 8},
    "smollm3": GROUPED,
    "gpt_neox": {},
    "gpt2": {"n_inner": 32, "n_positions": 64},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": 32},
    "nemotron": GROUPED,
    "exaone4": GROUPED | {"sliding_window": WINDOW},
    "ministral": GROUPED | {"head_dim": 8, "sliding_window": WINDOW},
    "ernie4_5": GROUPED,
    "seed_oss": GROUPED | {"head_dim": 8},
    "arcee": GROUPED,
    "llama4_text": GROUPED
    | MOE
    | {"head_dim": 8, "attention_chunk_size": WINDOW, "intermediate_size_mlp": 32},
    "persimmon": {},
    "gpt_bigcode": {"n_inner": 32, "n_positions": 64},
    "bitnet": GROUPED,
    "apertus": GROUPED,
    "lfm2": GROUPED | {"layer_types": ["conv", "full_attention", "full_attention", "conv"]},
    "gpt_oss": GROUPED | MOE | {"head_dim": 8, "sliding_window": WINDOW},
    "deepseek_v3": LATENT,
}
STRANGE = {
    "deepseek_v32": LATENT | {"index_n_heads": 2, "index_head_dim": 16, "index_topk": 4},
    "gemma4_text": GROUPED
    | {"head_dim": 8, "global_head_dim": 8, "sliding_window": 32, "num_kv_shared_layers": 2}
    | {"vocab_size_per_layer_input": 64, "hidden_size_per_layer_input": 8}
    | {"layer_types": ["sliding_attention", "full_attention"] * 2},
}
# Layers that keep a state beside attention layers.
STATES: dict[str, dict[str, Any]] = {
    "qwen3_next": {
        "num_key_value_heads": 2,
        "head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
        "layer_types": ["linear_attention", "full_attention"] * 2,
    },
    "jamba": {
        "num_key_value_heads": 2,
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "mamba_d_state": 4,
        "mamba_dt_rank": 4,
        "use_mamba_kernels": False,
    },
    "falcon_h1": {
        "num_key_value_heads": 2,
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_d_state": 4,
        "mamba_chunk_size": 4,
    },
}
WITH_STATES = ["lfm2", *STATES]
# The release of transformers since when attention goes through the interface (nemotron), or the
# cache is of the common kind.
SINCE = {"nemotron": "5.13"} | dict.fromkeys(WITH_STATES, "5.5")
# Their state starts anew with every piece of a text.
WHOLE = ["jamba"]
if Version(__version__) < Version("5.17"):
    WHOLE += ["lfm2", "falcon_h1"]
WINDOWED = [
    name for name, extra in ARCHITECTURES.items() if "window" in str(extra) or "chunk" in str(extra)
]


def build(architecture: str, **overrides: Any) -> PreTrainedModel:
    """A model of it; skips the test where this transformers does not know it well enough."""
    known = architecture in CONFIG_MAPPING
    if not known or Version(__version__) < Version(SINCE.get(architecture, "5.0")):
        pytest.skip(f"{architecture} in transformers {__version__}")
    torch.manual_seed(0)
    extra = (ARCHITECTURES | STRANGE | STATES).get(architecture, {})
    config = AutoConfig.for_model(architecture, **COMMON | extra | overrides)
    # SDPA has no soft cap; newer releases of transformers choose eager for gemma2 themselves.
    eager = {"attn_implementation": "eager"} if "attn_logit_softcapping" in extra else {}
    with warnings.catch_warnings():
        # gpt_bigcode, before transformers 5.20 or so.
        warnings.filterwarnings("ignore", "`torch.jit.script` is dep", DeprecationWarning)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, **eager).eval()
    # Random weights of the usual size attend evenly everywhere; larger ones pick.
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.15)
    return model

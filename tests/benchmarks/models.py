"""Models to measure on: named ones, and shapes with random weights and nano's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from headprobe.models.bundled import bundled
from headprobe.models.config import head_layout
from headprobe.models.loading import LoadedModel, load_model
from headprobe.prompts.build import hide_needles
from headprobe.prompts.case import Case
from headprobe.prompts.grid import parse_depths, parse_lengths
from headprobe.prompts.haystacks import sentences
from headprobe.prompts.needles import read_needles
from headprobe.prompts.style import PromptWriter

SHAPES = {
    "random-8x512": {
        "num_hidden_layers": 8,
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
    },
    "qwen2.5-0.5b": {
        "num_hidden_layers": 24,
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151_936,
        "tie_word_embeddings": True,
    },
    "llama3-8b": {
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128_256,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e5},
    },
}
NAMES = f"nano, {', '.join(SHAPES)}, or a directory"


def load(name: str, *, device: str, dtype: str) -> LoadedModel:
    """A model by name or directory, or random weights of a shape with the bundled tokenizer."""
    if name not in SHAPES:
        return load_model(name, device=device, dtype=dtype)
    nano = load_model("nano", device=device, dtype=dtype)
    return random_model(nano, name, SHAPES[name])


def random_model(nano: LoadedModel, name: str, shape: dict[str, Any]) -> LoadedModel:
    """Random weights of a shape, on the device and in the dtype of another model."""
    sizes = {"vocab_size": len(nano.tokenizer), "max_position_embeddings": 2**18}
    config = LlamaConfig(**sizes | shape)
    torch.manual_seed(0)
    with nano.device:
        model = LlamaForCausalLM._from_config(config, dtype=nano.model.dtype).eval()
    return LoadedModel(
        name=name,
        model=model,
        tokenizer=nano.tokenizer,
        layout=head_layout(config, id=name),
        max_context=None,
        fingerprint="",
    )


def draw(loaded: LoadedModel, *, lengths: str, depths: str, needles: int) -> Sequence[Case]:
    """The whole grid of r2 cases over the first of the bundled needles."""
    return hide_needles(
        read_needles(bundled("needles", "nano", "r2.jsonl"))[:needles],
        sentences=sentences("noise", seed=0),
        writer=PromptWriter(loaded.tokenizer),
        lengths=parse_lengths(lengths),
        depths=parse_depths(depths),
    )

"""Read and check a model's configuration, and count its heads."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    PreTrainedConfig,
)

from headprobe.errors import HeadprobeError
from headprobe.models.aliases import ALIASES
from headprobe.models.checkpoint import check_counts
from headprobe.models.hub import ModelFiles, quiet
from headprobe.models.layout import HeadLayout, check_same_heads
from headprobe.models.reading import reading


def read_layout(directory: Path) -> HeadLayout:
    """Read the heads of the model in a directory, from its configuration alone.

    Raises:
        HeadprobeError: the configuration cannot be read or is not a causal language model's.
    """
    with quiet():
        name = str(directory)
        files = ModelFiles(directory=directory, id=name)
        return described_layout(read_config(files, name, trust=False), name, id=name)


def head_layout(config: Any, *, id: str) -> HeadLayout:
    """Return the heads that a transformers configuration describes.

    Model families spell them differently: multi-query models (gpt_bigcode, falcon before its new
    architecture) have one KV head, and with latent attention (deepseek) a query head is as wide as
    its two parts together.

    Args:
        config: the configuration of the model.
        id: the model's name in result files.

    Raises:
        HeadprobeError: there are no heads (mamba), or their number differs by layer (openelm).
    """
    text = config.get_text_config(decoder=True)
    heads = getattr(text, "num_attention_heads", None)
    if not isinstance(heads, int):
        raise HeadprobeError(
            f"a {config.model_type!r} model has no attention heads, or not as many in every layer"
        )
    kv_heads = getattr(text, "num_key_value_heads", None)
    if kv_heads is None and getattr(text, "new_decoder_architecture", False):
        kv_heads = text.num_kv_heads
    if kv_heads is None:
        kv_heads = 1 if getattr(text, "multi_query", False) else heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    if getattr(text, "qk_nope_head_dim", None):
        head_dim = text.qk_nope_head_dim + text.qk_rope_head_dim
    return HeadLayout(
        id=id,
        architecture=config.model_type,
        layers=text.num_hidden_layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
    )


def check_layout(config: Any, wanted: HeadLayout) -> None:
    """Refuse to apply a budget to a model that it was not made for.

    Args:
        config: the model's configuration.
        wanted: the heads of the model that the budget was made for.

    Raises:
        UsageError: the numbers of layers or heads differ.
    """
    found = head_layout(config, id=config.model_type)
    check_same_heads(wanted, found, names=("the budget", "the model"))


def check_alias(name: str, layout: HeadLayout, max_context: int | None) -> None:
    """Refuse a configuration that differs from the model that the alias ``name`` stands for."""
    alias = ALIASES.get(name)
    if alias is None:
        return
    expected = asdict(alias)
    found = {**asdict(layout), "max_context": max_context}
    for field in ("layers", "num_heads", "num_kv_heads", "max_context"):
        if expected[field] not in (None, found[field]):
            raise HeadprobeError(
                f"{alias.repository} is not what {name} stands for: its config.json gives {field} "
                f"{found[field]}, expected {expected[field]}; download it again, or give "
                "its hub id or directory as `model` to take it as it is"
            )


def read_config(files: ModelFiles, name: str, *, trust: bool) -> Any:
    """Read the configuration of a causal language model.

    Args:
        files: the model's files.
        name: the model's name in errors.
        trust: run the Python files that the model brings.

    Raises:
        HeadprobeError: the configuration cannot be read, needs code that is not trusted, or
            describes another kind of model.
    """
    advice = "give the model as safetensors" if files.gguf else "look at its config.json"
    with reading(f"the configuration of {name}", advice):
        foreign = False
        if files.gguf is None:
            raw, _ = PreTrainedConfig.get_config_dict(files.directory)
            check_counts(raw, name)
            foreign = "auto_map" in raw and raw.get("model_type") not in CONFIG_MAPPING
        if foreign and not trust:
            raise HeadprobeError(
                f"{name} brings its own Python code: read it, then give `trust_remote_code`"
            )
        config = AutoConfig.from_pretrained(
            files.directory, trust_remote_code=trust, **files.arguments
        )
        check_counts(config.to_dict(), name)
        max_context = getattr(config.get_text_config(decoder=True), "sliding_window", None)
        if max_context is not None and not (isinstance(max_context, int) and max_context < 2**31):
            raise ValueError(f"sliding_window is {str(max_context)[:80]}, no number of tokens")
    if not foreign and (type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or encodes(config)):
        raise not_causal(name, config)
    return config


def described_layout(config: Any, name: str, *, id: str) -> HeadLayout:
    """Return the heads of a configuration; a ``HeadprobeError`` names the model ``name``."""
    with reading(f"the configuration of {name}", "look at its config.json"):
        return head_layout(config, id=id)


def encodes(config: Any) -> bool:
    """Tell whether a configuration describes an encoder-decoder."""
    return bool(getattr(config, "is_encoder_decoder", False))


def not_causal(name: str, config: Any) -> HeadprobeError:
    """Make the error that refuses a model which is no causal language model."""
    return HeadprobeError(f"{name} is a {config.model_type!r} model, no causal language model")

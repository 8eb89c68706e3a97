"""Merge adapters (LoRA and the like), small files that change a model's weights."""

from __future__ import annotations

import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headprobe.errors import HeadprobeError, UsageError
from headprobe.models.reading import reading

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
# The text between a changed layer's name and the name of its change.
_PART = ".lora_"


def require_adapter(directory: Path) -> None:
    """Refuse a directory without an adapter, and any adapter where peft is not installed.

    Raises:
        UsageError: the directory holds no adapter, or peft is not installed.
    """
    for file in (CONFIG, _WEIGHTS):
        if not (directory / file).is_file():
            raise UsageError(
                f"no {file} there; give the directory that peft's save_pretrained wrote",
                option="adapter",
                value=directory,
            )
    if find_spec("peft") is None:
        message = "it takes the package peft: pip install 'headprobe[peft]'"
        raise UsageError(message, option="adapter", value=directory)


def base_model(directory: Path) -> str:
    """Return the model that an adapter was trained on, as its configuration names it.

    Raises:
        HeadprobeError: the configuration cannot be read.
    """
    with reading(f"the adapter {directory}", f"look at its {CONFIG}"):
        fields = json.loads((directory / CONFIG).read_text())
        if not (isinstance(fields, dict) and "base_model_name_or_path" in fields):
            raise ValueError("it names no base_model_name_or_path")
        return str(fields["base_model_name_or_path"])


def merge_adapter(model: PreTrainedModel, directory: Path) -> PreTrainedModel:
    """Merge an adapter into a model's weights, and return the plain model.

    Raises:
        HeadprobeError: the adapter cannot be read or merged, or is for another model.
    """
    from peft import PeftModel
    from safetensors import safe_open

    advice = f"give the adapter of this model, trained on {base_model(directory)}"
    with reading(f"the adapter {directory}", advice), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Where weights of the adapter are missing, peft only warns.
        warnings.filterwarnings("error", message=".*missing adapter keys")
        adapted: Any = PeftModel.from_pretrained(model, str(directory))
        if not hasattr(adapted, "merge_and_unload"):
            raise HeadprobeError(
                f"the adapter {directory} cannot be merged into weights: a LoRA is wanted"
            )
        modules = {name for name, _ in adapted.named_modules()}
        with safe_open(directory / _WEIGHTS, "pt") as file:
            changed = [key.partition(_PART)[0] for key in file.keys() if _PART in key]  # noqa: SIM118
        left_over = sorted(set(changed) - modules)
        if left_over:
            raise HeadprobeError(
                f"the adapter {directory} does not fit the model: it has no place for "
                f"{left_over[0][:80]}; {advice}"
            )
        merged: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
    return merged

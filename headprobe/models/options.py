"""The options with which a user chooses a model, its device, and how it is loaded."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from headprobe.errors import UsageError
from headprobe.models.adapters import require_adapter

DTYPE_NAMES = ("float32", "bfloat16", "float16")
PLAIN, FLASH = ("sdpa", "eager"), ("flash_attention_2", "flash_attention_3", "flash_attention_4")
OPAQUE = "flex_attention"
ATTENTIONS = ", ".join((*PLAIN, *FLASH))
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
DEVICE_CHOICES = "expected auto, cpu, cuda, cuda:1, mps, xpu"
GGUF_SUFFIX = ".gguf"
_DEVICE = re.compile(r"auto|(cpu|cuda|mps|xpu)(:\d+)?")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The model to load, and how to load it.

    ``name`` is an alias, else a directory or a GGUF file, else a hub id (``owner/name``, or
    ``owner/name:file.gguf`` for a GGUF file there), which is downloaded once.

    ``device``: ``auto`` takes CUDA, else MPS, else the CPU. ``device_map`` spreads the layers over
    devices instead, as transformers does with accelerate: ``auto``, ``balanced``,
    ``sequential``. ``dtype``: ``auto`` takes float32 on the CPU, elsewhere the type that the
    checkpoint is saved in.

    ``attention`` is the implementation that computes attention: ``sdpa``, ``eager``,
    ``flash_attention_2``; by default the one that the configuration names, if it can run here and
    be observed, else SDPA. ``revision`` is a branch, tag or commit of the hub. ``adapter`` is the
    directory of an adapter (LoRA) that is merged into the weights. ``max_context`` overrides the
    number of positions that the configuration allows. ``trust_remote_code`` runs the Python files
    and kernels that a model brings.

    Raises:
        UsageError: a value is wrong whatever the model and the machine are.
    """

    name: str
    device: str = "auto"
    device_map: str | None = None
    dtype: str = "auto"
    attention: str | None = None
    revision: str | None = None
    adapter: Path | None = None
    max_context: int | None = None
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        if not _DEVICE.fullmatch(self.device):
            raise UsageError(DEVICE_CHOICES, option="device", value=self.device)
        if self.dtype not in ("auto", *DTYPE_NAMES):
            choices = f"expected auto, {', '.join(DTYPE_NAMES)}"
            raise UsageError(choices, option="dtype", value=self.dtype)
        if self.device_map is not None:
            _check_device_map(self.device_map, self.device)
        known = self.attention in (None, *PLAIN, *FLASH, OPAQUE)
        if not known and "/" not in str(self.attention):
            message = f"it is unknown; choose {ATTENTIONS}"
            raise UsageError(message, option="attention", value=self.attention)
        if self.adapter is not None:
            require_adapter(self.adapter)
        _require_present(self.name)


def _check_device_map(device_map: str, device: str) -> None:
    if device_map not in DEVICE_MAPS:
        choices = f"expected {', '.join(DEVICE_MAPS)}"
        raise UsageError(choices, option="device_map", value=device_map)
    if device != "auto":
        message = "`device` and `device_map` exclude each other: leave one out"
        raise UsageError(message, option="device_map", value=device_map)
    if find_spec("accelerate") is None:
        message = "needs accelerate: pip install 'headprobe[accelerate]'"
        raise UsageError(message, option="device_map", value=device_map)


def _require_present(name: str) -> None:
    """Refuse a name that only a path on this machine can have, where nothing lies."""
    if os.path.exists(Path(name).expanduser()):
        return
    is_file = name.endswith(GGUF_SUFFIX)
    if name.startswith((".", "/", "~")):
        message = f"no such {'file' if is_file else 'directory'}"
        raise UsageError(message, option="model", value=name)
    if is_file and ":" not in name:
        message = f"no such file; one of the hub is written owner/name:file{GGUF_SUFFIX}"
        raise UsageError(message, option="model", value=name)

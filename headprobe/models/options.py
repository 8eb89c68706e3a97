"""The options with which a user chooses a model, its device, and how it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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

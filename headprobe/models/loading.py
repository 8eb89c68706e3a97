"""Models: from an alias, a directory or a hub id to weights, tokenizer and head layout."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from headprobe.errors import HeadprobeError
from headprobe.models.config import (
    check_alias,
    described_layout,
    encodes,
    not_causal,
    read_config,
    reading,
)
from headprobe.models.device import find_device, find_device_map, find_dtype
from headprobe.models.hub import find_files, quiet
from headprobe.models.layout import HeadLayout

_TOKENIZER_FILES = ("tokenizer*", "vocab*", "tekken*", "*.model", "*.tiktoken")
_UNFIT = ("missing_keys", "mismatched_keys")


@dataclass(frozen=True, eq=False, kw_only=True)
class LoadedModel:
    """A causal language model that is ready to run.

    ``name`` is what the user called it; ``window`` is the number of positions that its
    configuration allows, if it says; ``fingerprint`` tells other weights apart.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    layout: HeadLayout
    window: int | None
    fingerprint: str

    @property
    def device(self) -> torch.device:
        """Where the input tokens go."""
        # Weights that accelerate found no room for are on device meta until they are used.
        hook = getattr(self.model, "_hf_hook", None)
        return self.model.device if hook is None else torch.device(hook.execution_device)

    @property
    def attention_layers(self) -> tuple[int, ...]:
        """The layers that have attention; in a hybrid the others keep states instead."""
        return attention_layers(self.model)

    @property
    def layers_without_attention(self) -> tuple[int, ...]:
        """The layers that keep states instead."""
        return tuple(sorted(set(range(self.layout.layers)) - set(self.attention_layers)))

    @property
    def weight_bytes(self) -> int:
        """Memory that the weights take."""
        return sum(weight.nbytes for weight in self.model.parameters())

    @property
    def dtype(self) -> str:
        """The name of the weights' type, such as ``bfloat16``."""
        return str(self.model.dtype).removeprefix("torch.")


def load_model(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    device_map: str | None = None,
    weights: bool = True,
    trust_remote_code: bool = False,
) -> LoadedModel:
    """Load a model for reading: evaluation mode, no gradients.

    Args:
        name: an alias, else a directory, else a hub id, which is downloaded once.
        device: ``auto`` takes CUDA, else MPS, else the CPU.
        dtype: ``auto`` takes float32 on the CPU, elsewhere what the checkpoint is saved in.
        device_map: spread the layers over devices, as transformers does with accelerate: ``auto``,
            ``balanced``, ``sequential``. In place of ``device``.
        weights: whether to read them; without, the model has shapes only (device ``meta``).
        trust_remote_code: run the Python files that the model brings.

    Raises:
        UsageError: no such directory, device or dtype.
        HeadprobeError: it cannot be fetched or read, is not a causal language model, or not the one
            that the alias stands for.
    """
    place = find_device(device)
    precision = find_dtype(dtype, place)
    spread = find_device_map(device_map, device)
    directory, model_id = find_files(name, python=trust_remote_code, weights=weights)
    with quiet():
        config = read_config(directory, name, trust_remote_code)
        layout = described_layout(config, name, id=model_id)
        window = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
        check_alias(name, layout, window)
        tokenizer = _read_tokenizer(directory, name, trust_remote_code)
        if weights:
            model = _read_weights(directory, name, config, precision, spread, trust_remote_code)
        else:
            model = _shapes(config, precision, trust_remote_code)
    model.requires_grad_(False).eval()  # type: ignore[no-untyped-call]
    return LoadedModel(
        name=name,
        model=_move(model, place) if weights and not spread else model,
        tokenizer=tokenizer,
        layout=layout,
        window=window,
        fingerprint=_fingerprint(model),
    )


def attention_layers(model: PreTrainedModel) -> tuple[int, ...]:
    """The layers of a model that have attention."""
    return tuple(sorted(attention_modules(model)))


def attention_modules(model: PreTrainedModel) -> dict[int, torch.nn.Module]:
    """The attention of a language model by layer; that of a vision tower has no layer's number."""
    parts = [part for part in model.modules() if hasattr(part, "is_causal")]
    return {part.layer_idx: part for part in parts if hasattr(part, "layer_idx")}  # type: ignore[misc]


def _read_tokenizer(directory: Path, name: str, trust: bool) -> PreTrainedTokenizerBase:
    advice = "save one there with save_pretrained, or download the whole model again"
    if not any(path for pattern in _TOKENIZER_FILES for path in directory.glob(pattern)):
        raise HeadprobeError(f"{name} has no tokenizer: {advice}")
    with reading(f"the tokenizer of {name}", advice):
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=trust)
        # transformers makes an empty tokenizer of some families when their files are missing.
        if len(tokenizer) <= len(tokenizer.all_special_tokens):
            raise HeadprobeError(f"cannot read the tokenizer of {name}: it has no words; {advice}")
    return tokenizer


def _shapes(config: Any, dtype: torch.dtype | str, trust: bool) -> PreTrainedModel:
    """The model without numbers."""
    wanted = config.dtype or torch.float32 if dtype == "auto" else dtype
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=wanted, trust_remote_code=trust
        )
    return model


def _read_weights(
    directory: Path,
    name: str,
    config: Any,
    dtype: torch.dtype | str,
    spread: dict[str, str],
    trust: bool,
) -> PreTrainedModel:
    # SDPA has no soft cap (gemma2); older releases of transformers choose it all the same.
    capped = getattr(config.get_text_config(decoder=True), "attn_logit_softcapping", None)
    choice = {"attn_implementation": "eager"} if capped else {}
    with reading(f"the weights of {name}", "download or copy them again"):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            config=config,
            dtype=dtype,
            trust_remote_code=trust,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **spread,
            **choice,
        )
    model: PreTrainedModel = loaded[0]
    # A key of another shape comes with the two shapes.
    unfit = sorted(
        key if isinstance(key, str) else key[0] for kind in _UNFIT for key in loaded[1][kind]
    )
    if unfit:
        raise HeadprobeError(
            f"the weights of {name} do not fit its config.json: {len(unfit)} are missing or of "
            f"another shape, {unfit[0]} among them"
        )
    if encodes(config) or _looks_ahead(model):
        raise not_causal(name, config)
    return model


def _looks_ahead(model: PreTrainedModel) -> bool:
    """Whether it is an encoder such as BERT, which transformers loads as a decoder all the same."""
    decoder = getattr(model.config, "is_decoder", True)
    return not decoder and not any(getattr(part, "is_causal", False) for part in model.modules())


def _move(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    try:
        model.to(device)  # type: ignore[arg-type]
    except torch.OutOfMemoryError:
        raise HeadprobeError(
            f"the model does not fit into the memory of {device}: try `dtype=bfloat16`, "
            "`device_map=auto`, a smaller model, or `device=cpu`"
        ) from None
    return model


def _fingerprint(model: PreTrainedModel) -> str:
    """A digest of 64 values of every weight: other weights, another fingerprint."""
    digest = hashlib.sha256()
    for name, _ in model.named_parameters(remove_duplicate=False):
        # One weight in two places may be two when accelerate has moved them.
        if name in model.all_tied_weights_keys:
            continue
        with _at_hand(model, name) as weight:
            if weight.is_meta:
                continue
            flat = weight.detach().flatten()
            digest.update(name.encode())
            digest.update(flat[:: max(1, flat.numel() // 64)].float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


@contextmanager
def _at_hand(model: PreTrainedModel, name: str) -> Iterator[torch.nn.Parameter]:
    """A weight, brought in from where accelerate keeps it if there was no room for it."""
    part: Any = model.get_submodule(name.rpartition(".")[0])
    hook = getattr(part, "_hf_hook", None)
    if hook is not None:
        hook.pre_forward(part)
    yield model.get_parameter(name)
    if hook is not None:
        hook.post_forward(part, None)

"""Load a model by alias, directory or hub id: weights, tokenizer and head layout."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from headprobe.errors import HeadprobeError
from headprobe.files import DIGEST_LENGTH, digest
from headprobe.models import gguf
from headprobe.models.adapters import merge_adapter
from headprobe.models.checkpoint import (
    check_files,
    check_quantization,
    check_sizes,
    numbers_held,
    refuse_pointer,
)
from headprobe.models.config import (
    check_alias,
    described_layout,
    encodes,
    not_causal,
    read_config,
)
from headprobe.models.device import find_device, find_dtype
from headprobe.models.hub import ModelFiles, find_files, quiet
from headprobe.models.implementation import choose_attention
from headprobe.models.layout import HeadLayout
from headprobe.models.max_context import allow_context
from headprobe.models.options import ModelOptions
from headprobe.models.reading import reading

_LOG = logging.getLogger(__name__)
_TOKENIZER_FILES = ("tokenizer*", "vocab*", "tekken*", "*.model", "*.tiktoken")
_UNFIT = ("missing_keys", "mismatched_keys")


@dataclass(frozen=True, eq=False, kw_only=True)
class LoadedModel:
    """A causal language model that is ready to run.

    ``name`` is the name that the user gave, ``adapter`` the directory of the adapter that was
    merged; ``max_context`` is the number of positions that prompts may take, if it is known;
    ``fingerprint`` is a digest that differs for other weights.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    layout: HeadLayout
    max_context: int | None
    fingerprint: str
    adapter: Path | None = None

    @property
    def label(self) -> str:
        """The name under which results of the model are stored."""
        if self.adapter is None:
            return self.name
        name = Path(self.name).resolve().name if Path(self.name).exists() else self.name
        return f"{name}+{self.adapter.resolve().name}"

    @property
    def attention(self) -> str:
        """The implementation that computes attention, such as ``sdpa``."""
        return str(self.model.config.get_text_config(decoder=True)._attn_implementation)

    @property
    def device(self) -> torch.device:
        """The device that input tokens must be on."""
        # Weights that accelerate found no room for are on device meta until they are used.
        hook = getattr(self.model, "_hf_hook", None)
        return self.model.device if hook is None else torch.device(hook.execution_device)

    @property
    def attention_layers(self) -> tuple[int, ...]:
        """The layers that have attention; the other layers of a hybrid model keep states."""
        return attention_layers(self.model)

    @property
    def layers_without_attention(self) -> tuple[int, ...]:
        """The layers without attention, which keep states instead."""
        return tuple(sorted(set(range(self.layout.layers)) - set(self.attention_layers)))

    @property
    def weight_bytes(self) -> int:
        """The memory that the weights take, in bytes."""
        return sum(weight.nbytes for weight in self.model.parameters())

    @property
    def dtype(self) -> str:
        """The name of the weights' type, such as ``bfloat16``."""
        return str(self.model.dtype).removeprefix("torch.")


def load_model(model: str | ModelOptions, *, weights: bool = True, **options: Any) -> LoadedModel:
    """Load a model for reading: evaluation mode, no gradients.

    Args:
        model: an alias, a directory, a GGUF file or a hub id; or all options in one record.
        weights: whether to read the weights; without, the model has shapes only (device ``meta``).
        options: fields of ``ModelOptions`` given by keyword, such as ``device="cpu"``.

    Raises:
        UsageError: there is no such directory, device, dtype, adapter or attention.
        HeadprobeError: the model cannot be fetched or read, is not a causal language model, or is
            not the model that the alias stands for.
    """
    chosen = replace(
        model if isinstance(model, ModelOptions) else ModelOptions(name=model), **options
    )
    name, trust = chosen.name, chosen.trust_remote_code
    place = find_device(chosen.device)
    precision = find_dtype(chosen.dtype, place)
    spread = {"device_map": chosen.device_map} if chosen.device_map else {}
    files = find_files(name, revision=chosen.revision, python=trust, weights=weights)
    with quiet():
        header = _header(files)
        check_files(files.directory, name, weights=weights)
        config = read_config(files, name, trust=trust)
        if header is not None:
            gguf.scale_rope(config, header)
            precision = find_dtype(header.dtype, place) if precision == "auto" else precision
        layout = described_layout(config, name, id=files.id)
        stated = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
        check_alias(name, layout, stated)
        max_context = allow_context(config, chosen.max_context, name=name)
        choose_attention(
            config,
            chosen.attention,
            name=name,
            device=place,
            dtype=_known_dtype(config, precision),
            trust=trust,
        )
        tokenizer = _read_tokenizer(files, name, trust)
        if weights:
            _check_size(config, files, header, name, precision)
            loaded = _read_weights(files, name, config, precision, spread, trust)
            loaded = loaded if spread else _move(loaded, place)
        else:
            loaded = _shapes(config, name, precision, trust)
        if weights and header is not None:
            gguf.check_rope(loaded, header)
            loaded.generation_config.eos_token_id = header.answer_ends or None
        if weights and chosen.adapter is not None:
            loaded = merge_adapter(loaded, chosen.adapter)
            layout = replace(layout, id=f"{layout.id}+{chosen.adapter.resolve().name}")
    # By default MKL takes fewer threads as it sees fit, which changes the order of sums.
    torch.set_num_threads(torch.get_num_threads())
    loaded.requires_grad_(False).eval()  # type: ignore[no-untyped-call]
    found = LoadedModel(
        name=name,
        model=loaded,
        tokenizer=tokenizer,
        layout=layout,
        max_context=max_context,
        fingerprint=_fingerprint(loaded),
        adapter=chosen.adapter,
    )
    _LOG.info("loaded %s from %s: %s", name, files.directory, layout.to_json())
    _LOG.info("in %s on %s, attention by %s", found.dtype, found.model.device, found.attention)
    return found


def attention_layers(model: PreTrainedModel) -> tuple[int, ...]:
    """List the layers of a model that have attention."""
    return tuple(sorted(attention_modules(model)))


def attention_modules(model: PreTrainedModel) -> dict[int, torch.nn.Module]:
    """Map each layer to its attention module; a vision tower's modules are left out."""
    parts = [part for part in model.modules() if hasattr(part, "is_causal")]
    return {part.layer_idx: part for part in parts if hasattr(part, "layer_idx")}  # type: ignore[misc]


def _header(files: ModelFiles) -> gguf.GgufHeader | None:
    """Read the header of a model that is a GGUF file; ``None`` for other models."""
    if files.gguf is None:
        return None
    gguf.require_gguf()
    refuse_pointer(files.directory / files.gguf)
    return gguf.read_header(files.directory / files.gguf)


def _known_dtype(config: Any, dtype: torch.dtype | str) -> torch.dtype:
    """Return the type that the weights have once they are loaded."""
    known: torch.dtype = (config.dtype or torch.float32) if isinstance(dtype, str) else dtype
    return known


def _read_tokenizer(files: ModelFiles, name: str, trust: bool) -> PreTrainedTokenizerBase:
    directory = files.directory
    advice = "save one there with save_pretrained, or download the whole model again"
    found = (path for pattern in _TOKENIZER_FILES for path in directory.glob(pattern))
    if files.gguf is None and not any(found):
        raise HeadprobeError(f"{name} has no tokenizer: {advice}")
    with reading(f"the tokenizer of {name}", advice):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            directory, trust_remote_code=trust, **files.arguments
        )
        # transformers makes an empty tokenizer of some families when their files are missing.
        if len(tokenizer) <= len(tokenizer.all_special_tokens):
            raise HeadprobeError(f"cannot read the tokenizer of {name}: it has no words; {advice}")
        tokenizer.encode("")
    return tokenizer


def _shapes(config: Any, name: str, dtype: torch.dtype | str, trust: bool) -> PreTrainedModel:
    """Build the model with shapes but without numbers (device ``meta``)."""
    with (
        reading(f"the configuration of {name}", "look at its config.json"),
        torch.device("meta"),
    ):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=_known_dtype(config, dtype), trust_remote_code=trust
        )
    return model


def _check_size(
    config: Any,
    files: ModelFiles,
    header: gguf.GgufHeader | None,
    name: str,
    dtype: torch.dtype | str,
) -> None:
    """Refuse a configuration that would take far more memory than the weight files do.

    A model with code of its own is trusted, and may be impossible to build without numbers.
    """
    quantized = check_quantization(config, name)
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        held = header.numbers if header else numbers_held(files.directory, name)
        check_sizes(_shapes(config, name, dtype, False), held, name, quantized=quantized)


def _read_weights(
    files: ModelFiles,
    name: str,
    config: Any,
    dtype: torch.dtype | str,
    spread: dict[str, str],
    trust: bool,
) -> PreTrainedModel:
    unpacking: AbstractContextManager[dict[str, Any]] = (
        gguf.dequantizing() if files.gguf else nullcontext({})
    )
    try:
        with reading(f"the weights of {name}", "download or copy them again"), unpacking as packed:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                files.directory,
                config=config,
                dtype=dtype,
                trust_remote_code=trust,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **files.arguments,
                **packed,
                **spread,
            )
    except torch.OutOfMemoryError as error:
        raise _too_large(str(error).split(".")[0]) from None
    model: PreTrainedModel = loaded[0]
    # transformers lists a key of another shape together with the two shapes.
    unfit = sorted(
        key if isinstance(key, str) else key[0] for kind in _UNFIT for key in loaded[1][kind]
    )
    if unfit:
        raise HeadprobeError(
            f"the weights of {name} do not fit its configuration: {len(unfit)} are missing or of "
            f"another shape, {unfit[0]} among them"
        )
    if encodes(config) or _looks_ahead(model):
        raise not_causal(name, config)
    _check_ends(model, name)
    return model


def _check_ends(model: PreTrainedModel, name: str) -> None:
    """Refuse a generation config whose end-of-sequence tokens are no token ids."""
    ends = getattr(model.generation_config, "eos_token_id", None)
    for end in ends if isinstance(ends, list) else [ends]:
        if end is not None and not isinstance(end, int):
            raise HeadprobeError(
                f"the generation_config.json of {name} gives eos_token_id {str(end)[:80]!r}, which "
                "is no token: look at it"
            )


def _looks_ahead(model: PreTrainedModel) -> bool:
    """Tell whether a model is an encoder such as BERT, which transformers loads as a decoder."""
    decoder = getattr(model.config, "is_decoder", True)
    return not decoder and not any(getattr(part, "is_causal", False) for part in model.modules())


def _move(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    try:
        model.to(device)  # type: ignore[arg-type]
    except torch.OutOfMemoryError:
        raise _too_large(f"it has not enough on {device}") from None
    return model


def _too_large(reason: str) -> HeadprobeError:
    return HeadprobeError(
        f"the model does not fit into memory ({reason}): try `dtype=bfloat16`, "
        "`device_map=auto`, a smaller model, or `device=cpu`"
    )


def _fingerprint(model: PreTrainedModel) -> str:
    """Digest 64 values of every weight, so that other weights give another fingerprint."""
    return digest(_sampled_weights(model))[:DIGEST_LENGTH]


def _sampled_weights(model: PreTrainedModel) -> Iterator[bytes]:
    """Yield the name of every weight and 64 values of it, spread over the whole."""
    for name, _ in model.named_parameters(remove_duplicate=False):
        # One weight in two places may be two when accelerate has moved them.
        if name in model.all_tied_weights_keys:
            continue
        with _at_hand(model, name) as weight:
            if weight.is_meta:
                continue
            flat = weight.detach().flatten()
            yield name.encode()
            yield flat[:: max(1, flat.numel() // 64)].float().cpu().numpy().tobytes()


@contextmanager
def _at_hand(model: PreTrainedModel, name: str) -> Iterator[torch.nn.Parameter]:
    """Yield a weight, brought to the device first if accelerate has offloaded it."""
    part: Any = model.get_submodule(name.rpartition(".")[0])
    hook = getattr(part, "_hf_hook", None)
    if hook is not None:
        hook.pre_forward(part)
    yield model.get_parameter(name)
    if hook is not None:
        hook.post_forward(part, None)

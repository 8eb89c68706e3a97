"""Models: from an alias, a directory or a hub id to weights, tokenizer and head layout."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from headprobe.errors import HeadprobeError, UsageError
from headprobe.models.aliases import ALIASES
from headprobe.models.hub import find_files, first_line, quiet
from headprobe.models.layout import HeadLayout

DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

_TOKENIZER_FILES = ("tokenizer*", "vocab*", "tekken*", "*.model", "*.tiktoken")
_UNFIT = ("missing_keys", "mismatched_keys")
_UNREADABLE = (
    OSError,
    ValueError,
    ArithmeticError,
    ImportError,
    RuntimeError,
    EOFError,
    StrictDataclassError,
    SafetensorError,
    pickle.UnpicklingError,
)


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
    place = _find_device(device)
    precision = _find_dtype(dtype, place)
    spread = _device_map(device_map, device)
    directory, model_id = find_files(name, python=trust_remote_code, weights=weights)
    with quiet():
        config = _read_config(directory, name, trust_remote_code)
        layout = _read_layout(config, name, id=model_id)
        window = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
        _check_alias(name, layout, window)
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


def read_layout(directory: Path) -> HeadLayout:
    """The heads of the model in a directory, from its configuration alone.

    Raises:
        HeadprobeError: it cannot be read or is not a causal language model.
    """
    with quiet():
        name = str(directory)
        return _read_layout(_read_config(directory, name, False), name, id=name)


def attention_layers(model: PreTrainedModel) -> tuple[int, ...]:
    """The layers of a model that have attention."""
    return tuple(sorted(attention_modules(model)))


def attention_modules(model: PreTrainedModel) -> dict[int, torch.nn.Module]:
    """The attention of a language model by layer; that of a vision tower has no layer's number."""
    parts = [part for part in model.modules() if hasattr(part, "is_causal")]
    return {part.layer_idx: part for part in parts if hasattr(part, "layer_idx")}  # type: ignore[misc]


def head_layout(config: Any, *, id: str) -> HeadLayout:
    """The heads that a transformers configuration describes.

    Where families spell it differently: multi-query models (gpt_bigcode, falcon before its new
    architecture) have one KV head, and with latent attention (deepseek) a query head is as wide as
    its two parts together.

    Raises:
        HeadprobeError: there are no heads (mamba), or not as many in every layer (openelm).
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
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
    )


def check_layout(config: Any, wanted: HeadLayout) -> None:
    """Refuse to put a budget on a model that it was not made for.

    Raises:
        HeadprobeError: its layers or heads are others than those that the configuration describes.
    """
    found = head_layout(config, id=wanted.id)
    for name in ("layers", "heads", "kv_heads"):
        if getattr(found, name) != getattr(wanted, name):
            raise HeadprobeError(
                f"the budget is for a model with {getattr(wanted, name)} {name} "
                f"({wanted.id}), this one has {getattr(found, name)}; allocate one for it"
            )


def _check_alias(name: str, layout: HeadLayout, window: int | None) -> None:
    """Refuse a configuration other than the one the alias promises."""
    alias = ALIASES.get(name)
    if alias is None:
        return
    expected = asdict(alias)
    found = {**layout.to_json(), "window": window}
    for field in ("layers", "heads", "kv_heads", "window"):
        if expected[field] not in (None, found[field]):
            raise HeadprobeError(
                f"{alias.repository} is not what {name} stands for: its config.json gives {field} "
                f"{found[field]}, expected {expected[field]}; download it again, or give "
                "its hub id or directory with --model to take it as it is"
            )


def _find_device(device: str) -> torch.device:
    usable = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
        "xpu": torch.xpu.is_available(),
    }
    if device == "auto":
        return torch.device(next(kind for kind in usable if usable[kind]))
    unknown = UsageError(f"no device {device!r}; choose auto, cpu, cuda, cuda:1, mps, xpu")
    kind = device.partition(":")[0]
    if kind not in usable:
        raise unknown
    if not usable[kind]:
        raise UsageError(f"device {device!r} is not available here; choose auto or cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise unknown from None
    count = torch.get_device_module(found).device_count()
    if (found.index or 0) >= count:
        raise UsageError(f"no device {device!r}; there are {count} here")
    return found


def _find_dtype(dtype: str, device: torch.device) -> torch.dtype | str:
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    if dtype not in DTYPES:
        raise UsageError(f"no dtype {dtype!r}; choose auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def _read_config(directory: Path, name: str, trust: bool) -> Any:
    with _reading(f"the configuration of {name}", "look at its config.json"):
        raw, _ = PreTrainedConfig.get_config_dict(directory)
        foreign = "auto_map" in raw and raw.get("model_type") not in CONFIG_MAPPING
        if foreign and not trust:
            raise HeadprobeError(
                f"{name} brings its own Python code: read it, then give --trust-remote-code"
            )
        config = AutoConfig.from_pretrained(directory, trust_remote_code=trust)
    if not foreign and (type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or _encodes(config)):
        raise _not_causal(name, config)
    return config


def _read_layout(config: Any, name: str, *, id: str) -> HeadLayout:
    with _reading(f"the configuration of {name}", "look at its config.json"):
        return head_layout(config, id=id)


def _read_tokenizer(directory: Path, name: str, trust: bool) -> PreTrainedTokenizerBase:
    advice = "save one there with save_pretrained, or download the whole model again"
    if not any(path for pattern in _TOKENIZER_FILES for path in directory.glob(pattern)):
        raise HeadprobeError(f"{name} has no tokenizer: {advice}")
    with _reading(f"the tokenizer of {name}", advice):
        tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=trust)
        # transformers makes an empty tokenizer of some families when their files are missing.
        if len(tokenizer) <= len(tokenizer.all_special_tokens):
            raise HeadprobeError(f"cannot read the tokenizer of {name}: it has no words; {advice}")
    return tokenizer


def _device_map(device_map: str | None, device: str) -> dict[str, str]:
    if device_map is None:
        return {}
    if device_map not in DEVICE_MAPS:
        raise UsageError(f"no device map {device_map!r}; choose {', '.join(DEVICE_MAPS)}")
    if device != "auto":
        raise UsageError("--device and --device-map exclude each other: leave one out")
    if find_spec("accelerate") is None:
        raise UsageError("--device-map needs accelerate: pip install 'headprobe[accelerate]'")
    return {"device_map": device_map}


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
    with _reading(f"the weights of {name}", "download or copy them again"):
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
    if _encodes(config) or _looks_ahead(model):
        raise _not_causal(name, config)
    return model


@contextmanager
def _reading(what: str, advice: str) -> Iterator[None]:
    """Turn what transformers raises over unusable files into one line."""
    try:
        yield
    except _UNREADABLE as error:
        raise HeadprobeError(f"cannot read {what}: {first_line(error)}; {advice}") from error


def _encodes(config: Any) -> bool:
    return bool(getattr(config, "is_encoder_decoder", False))


def _looks_ahead(model: PreTrainedModel) -> bool:
    """Whether it is an encoder such as BERT, which transformers loads as a decoder all the same."""
    decoder = getattr(model.config, "is_decoder", True)
    return not decoder and not any(getattr(part, "is_causal", False) for part in model.modules())


def _not_causal(name: str, config: Any) -> HeadprobeError:
    return HeadprobeError(f"{name} is a {config.model_type!r} model, no causal language model")


def _move(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    try:
        model.to(device)  # type: ignore[arg-type]
    except torch.OutOfMemoryError:
        raise HeadprobeError(
            f"the model does not fit into the memory of {device}: try --dtype bfloat16, "
            "--device-map auto, a smaller model, or --device cpu"
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

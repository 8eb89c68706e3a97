"""Choose the implementation that computes a model's attention.

headprobe always names one itself: transformers would use the one that config.json names, and fetch
a kernel from the hub for it, code that nobody asked for (``"_attn_implementation":
"somebody/kernel"``).
"""

from __future__ import annotations

import copy
import warnings
from importlib.util import find_spec
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.utils import import_utils

from headprobe.errors import HeadprobeWarning, UsageError
from headprobe.models.options import ATTENTIONS, FLASH, OPAQUE, PLAIN


def choose_attention(
    config: Any,
    wanted: str | None,
    *,
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    trust: bool,
) -> None:
    """Set the attention implementation in a configuration.

    It is the ``wanted`` one, else the one that the configuration names if this can run here and be
    observed, else the default of transformers: SDPA, or eager attention for models that SDPA cannot
    compute.

    Args:
        config: the configuration, changed in place.
        wanted: the implementation that the user asked for, if any.
        name: the model's name in warnings.
        device: the device that the model runs on.
        dtype: the type of the weights.
        trust: allow kernels from the hub, which are code.

    Raises:
        UsageError: the wanted implementation cannot run here, or cannot be observed.
    """
    named = getattr(config, "_attn_implementation", None)
    config._attn_implementation = None
    # Some implementations of experts are kernels of the hub too.
    if getattr(config, "_experts_implementation", None) and not trust:
        config._experts_implementation = None
    # SDPA has no soft cap (gemma2); older releases of transformers choose it all the same.
    capped = getattr(config.get_text_config(decoder=True), "attn_logit_softcapping", None)
    chosen = wanted or (named if isinstance(named, str) else None)
    problem = _problem(config, chosen, bool(capped), device, dtype, trust) if chosen else None
    if problem and wanted:
        raise UsageError(problem, option="attention", value=wanted)
    if problem and chosen not in PLAIN:
        fallback = "eager" if capped else "SDPA"
        warnings.warn(
            f"the config.json of {name} names the attention {str(chosen)[:80]!r}: {problem}; "
            f"going on with {fallback}",
            HeadprobeWarning,
            stacklevel=2,
        )
    plain = "eager" if capped else None
    config._attn_implementation = plain if problem else chosen or plain


def _problem(
    config: Any,
    chosen: str,
    capped: bool,
    device: torch.device,
    dtype: torch.dtype,
    trust: bool,
) -> str | None:
    """Say why an implementation cannot run here or be observed; ``None`` if it can."""
    model = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if chosen == "eager":
        return None
    if chosen == "sdpa":
        if capped or not getattr(model, "_supports_sdpa", True):
            return f"SDPA cannot compute that of a {config.model_type!r} model; take eager"
        return None
    if chosen in FLASH:
        return (
            _flash_problem(config, model, chosen)
            or _kernel_problem(device, dtype)
            or _missing(chosen)
        )
    if "/" in chosen and "flash" in chosen:
        if not trust:
            return "a kernel of the hub is code: read it, then give `trust_remote_code`"
        if find_spec("kernels") is None:
            return "it needs the package kernels: pip install kernels"
        return _kernel_problem(device, dtype)
    if chosen == OPAQUE or "/" in chosen:
        return f"it does not show what each head attends to; choose {ATTENTIONS}"
    return f"it is unknown; choose {ATTENTIONS}"


def _flash_problem(config: Any, model: Any, chosen: str) -> str | None:
    compatible = getattr(model, "_compatible_flash_implementations", None) or [chosen]
    supported = getattr(model, "_supports_flash_attn", True) and chosen in compatible
    try:
        # In older releases of transformers the configuration of gpt_oss knows its kernel itself.
        copy.deepcopy(config)._attn_implementation = chosen
    except ValueError:
        supported = False
    return None if supported else "it is not for this model; choose " + ", ".join(PLAIN)


def _missing(chosen: str) -> str | None:
    available = getattr(import_utils, f"is_flash_attn_{chosen[-1]}_available", None)
    if available is not None and available():
        return None
    return "it needs the package flash-attn, in a release of that number: pip install flash-attn"


def _kernel_problem(device: torch.device, dtype: torch.dtype) -> str | None:
    if device.type != "cuda":
        return f"it runs on CUDA and not on {device.type}; choose {', '.join(PLAIN)}"
    if dtype == torch.float32:
        return "it does not compute in float32; give `dtype=bfloat16`"
    return None

"""Choose the device that a model runs on, and its precision."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from headprobe.errors import UsageError

DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def find_device(device: str) -> torch.device:
    """Return the device called ``device``; for ``auto`` CUDA, else MPS, else the CPU.

    Raises:
        UsageError: this machine has no such device.
    """
    usable = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
        "xpu": torch.xpu.is_available(),
    }
    if device == "auto":
        return torch.device(next(kind for kind in usable if usable[kind]))
    choices = "expected auto, cpu, cuda, cuda:1, mps, xpu"
    unknown = UsageError(choices, option="device", value=device)
    kind = device.partition(":")[0]
    if kind not in usable:
        raise unknown
    if not usable[kind]:
        raise UsageError("not available here; choose auto or cpu", option="device", value=device)
    try:
        found = torch.device(device)
    except RuntimeError:
        raise unknown from None
    count = torch.get_device_module(found).device_count()
    if (found.index or 0) >= count:
        raise UsageError(f"there are {count} here", option="device", value=device)
    return found


def find_dtype(dtype: str, device: torch.device) -> torch.dtype | str:
    """Return the type that weights are loaded in.

    For ``auto`` this is float32 on the CPU, and elsewhere "auto", the checkpoint's own type.

    Raises:
        UsageError: the type is unknown.
    """
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    if dtype not in DTYPES:
        raise UsageError(f"expected auto, {', '.join(DTYPES)}", option="dtype", value=dtype)
    return DTYPES[dtype]


def find_device_map(device_map: str | None, device: str) -> dict[str, str]:
    """Return the arguments with which ``from_pretrained`` spreads a model over devices.

    Args:
        device_map: the way to spread the model; ``None`` for one device, without arguments.
        device: the device that the user named, which must be ``auto`` beside a map.

    Raises:
        UsageError: the map is unknown, a device is named too, or accelerate is not installed.
    """
    if device_map is None:
        return {}
    if device_map not in DEVICE_MAPS:
        choices = f"expected {', '.join(DEVICE_MAPS)}"
        raise UsageError(choices, option="device_map", value=device_map)
    if device != "auto":
        message = "`device` and `device_map` exclude each other: leave one out"
        raise UsageError(message, option="device_map", value=device_map)
    if find_spec("accelerate") is None:
        message = "needs accelerate: pip install 'headprobe[accelerate]'"
        raise UsageError(message, option="device_map", value=device_map)
    return {"device_map": device_map}

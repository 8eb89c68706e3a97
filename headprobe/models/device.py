"""Where a model runs, and in which precision."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from headprobe.errors import UsageError

DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def find_device(device: str) -> torch.device:
    """The device of that name; of ``auto`` CUDA, else MPS, else the CPU.

    Raises:
        UsageError: there is no such device here.
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
    """The type that weights are loaded in; of ``auto`` float32 on the CPU, else the checkpoint's.

    Raises:
        UsageError: there is no such type.
    """
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    if dtype not in DTYPES:
        raise UsageError(f"expected auto, {', '.join(DTYPES)}", option="dtype", value=dtype)
    return DTYPES[dtype]


def find_device_map(device_map: str | None, device: str) -> dict[str, str]:
    """What spreads a model over devices, as arguments of ``from_pretrained``; none for ``None``.

    Raises:
        UsageError: there is no such map, a device is named too, or accelerate is not installed.
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

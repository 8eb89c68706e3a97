"""Choose the device that a model runs on, and its precision."""

from __future__ import annotations

import torch

from headprobe.errors import UsageError
from headprobe.models.options import DEVICE_CHOICES, DTYPE_NAMES

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPE_NAMES}


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
    if not usable[device.partition(":")[0]]:
        raise UsageError("not available here; choose auto or cpu", option="device", value=device)
    try:
        found = torch.device(device)
    except RuntimeError:
        raise UsageError(DEVICE_CHOICES, option="device", value=device) from None
    count = torch.get_device_module(found).device_count()
    if (found.index or 0) >= count:
        raise UsageError(f"there are {count} here", option="device", value=device)
    return found


def find_dtype(dtype: str, device: torch.device) -> torch.dtype | str:
    """Return the type that weights are loaded in.

    For ``auto`` this is float32 on the CPU, and elsewhere "auto", the checkpoint's own type.
    """
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else "auto"
    return DTYPES[dtype]

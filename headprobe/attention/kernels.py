"""Which of PyTorch's attention kernels are allowed to run on a GPU.

On Hopper PyTorch takes cuDNN's by default, which plans anew for every new shape: 20 to 60 ms a
call while lengths change from step to step.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

ALLOWED = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
"""The first of them that can do it is taken."""


def allowed_kernels(device: torch.device) -> AbstractContextManager[None]:
    """Let scaled_dot_product_attention choose among kernels that plan nothing, on CUDA devices.

    Inside the ``with`` it is so whatever the process has switched on or off; afterwards that
    counts again. On other devices nothing changes.
    """
    if device.type != "cuda":
        return nullcontext()
    allowed: AbstractContextManager[None] = sdpa_kernel([*ALLOWED])
    return allowed

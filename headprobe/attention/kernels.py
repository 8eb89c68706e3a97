"""Keep PyTorch's scaled_dot_product_attention from using cuDNN's kernel.

On Hopper PyTorch uses cuDNN's kernel by default, which makes a new plan for every new shape: 20 to
60 ms a call while lengths change from step to step.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

ALLOWED = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH)
"""Kernels in order of preference: PyTorch uses the first that can compute the call."""


def allowed_kernels(device: torch.device) -> AbstractContextManager[None]:
    """Return a context in which CUDA attention uses only kernels that need no plan per shape.

    Inside the ``with`` the kernels of ``ALLOWED`` replace the process's own choice of kernels,
    which is restored at the end. On other devices nothing changes.
    """
    if device.type != "cuda":
        return nullcontext()
    allowed: AbstractContextManager[None] = sdpa_kernel([*ALLOWED])
    return allowed

"""What a model is made to do: its forward passes, and the calls of PyTorch's attention in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode


@dataclass
class Counts:
    """``tokens`` has an entry a forward pass; ``attention`` counts calls of SDPA."""

    tokens: list[int] = field(default_factory=list)
    attention: int = 0

    @property
    def passes(self) -> int:
        return len(self.tokens)


class _Attention(TorchFunctionMode):
    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self._counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._counts.attention += func is scaled_dot_product_attention
        return func(*args, **(kwargs or {}))


@contextmanager
def counted(model: nn.Module) -> Iterator[Counts]:
    """Count what is done inside the ``with`` block."""
    counts = Counts()

    def count(_: Any, args: Any, kwargs: Any) -> None:
        ids = args[0] if args else kwargs["input_ids"]
        counts.tokens.append(ids.shape[1])

    hook = model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        with _Attention(counts):
            yield counts
    finally:
        hook.remove()

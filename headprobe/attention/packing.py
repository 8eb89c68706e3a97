"""Check whether a model can run branches of several texts in one forward pass."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from headprobe.attention.branches import PATH, Branches
from headprobe.attention.observe import forward, makes_masks
from headprobe.attention.prefix_cache import PrefixCache

_PATH = tuple(range(1, 13))
# Two branches, each with the place where it leaves the path, and what follows there.
_TAILS = ((12, (13, 14, 15, 16)), (6, (17, 18, 19, 20, 21, 22)))


class _Elsewhere(PrefixCache):
    """A KV cache that tells a wrong number of tokens."""

    claimed = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the wrong number, once it is set."""
        return self.claimed or int(super().get_seq_length(layer_idx))


@torch.no_grad()
def why_one_by_one(model: PreTrainedModel, *, device: torch.device, longest: int) -> str | None:
    """Tell why a model cannot run branches of several texts in one pass; ``None`` if it can.

    The logits of two branches that are run in one pass must equal those of each run alone. A third
    branch, far from them, must not matter (some models scale all positions by the last one), nor
    the number of tokens that the KV cache reports.

    Args:
        model: a causal language model.
        device: the device that input tokens must be on.
        longest: the tokens of the longest text that will be run.

    Raises:
        HeadprobeError: the model cannot be run on a KV cache at all.
    """
    size = len(_PATH) + sum(len(tail) for _, tail in _TAILS) + 1
    if PrefixCache(model, size).has_recurrent_state:
        return "some layers keep a recurrent state"
    if "position_ids" not in inspect.signature(model.forward).parameters:
        return "it takes no position ids"
    if not makes_masks(model, device):
        return "its attention takes no masks of single keys"
    packed = _packed(model, device, size, far=max(size, longest - 1))
    alone = torch.cat([_alone(model, device, size, *tail) for tail in _TAILS])
    if not alone.isfinite().all():
        # Nothing can be compared; the first case will say what is not finite.
        return None
    tolerance = torch.finfo(model.dtype).eps ** 0.5 * (alone.max() - alone.min())
    if not (packed - alone).abs().max() <= tolerance:
        return "its logits differ when other texts are in the same pass"
    return None


def _packed(
    model: PreTrainedModel, device: torch.device, size: int, *, far: int
) -> Float[Tensor, "token vocabulary"]:
    """Return the logits of all branches but the far one, which are run in one pass."""
    cache = _Elsewhere(model, size)
    _read(model, device, cache, _PATH)
    branches = Branches(len(_PATH), device)
    read: list[int] = []
    for start, tail in _TAILS:
        branch = branches.add(PATH, start)
        branches.place([branch] * len(tail), range(start, start + len(tail)))
        read += tail
    branches.place([branches.add(PATH, 0)], [far])
    read.append(1)
    cache.claimed = far
    return _read(model, device, cache, read, layout=branches.layout(len(read)))[:-1]


def _alone(
    model: PreTrainedModel, device: torch.device, size: int, start: int, tail: Sequence[int]
) -> Float[Tensor, "token vocabulary"]:
    cache = PrefixCache(model, size)
    _read(model, device, cache, _PATH[:start])
    return _read(model, device, cache, tail)


def _read(
    model: PreTrainedModel,
    device: torch.device,
    cache: PrefixCache,
    tokens: Sequence[int],
    **how: Any,
) -> Float[Tensor, "token vocabulary"]:
    read = torch.tensor([tokens], device=device)
    logits: Tensor = forward(model, read, past_key_values=cache, use_cache=True, **how).logits[0]
    return logits.float()

"""Choose the logits that a forward pass computes."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor


def last_position(ids: Int[Tensor, "sequence token"]) -> Int[Tensor, " 1"]:
    """Return the index of the last token of each sequence, for a model's ``logits_to_keep``.

    The count 1 asks for the same logits, by a slice of the hidden states that is not contiguous.
    PyTorch multiplies that in bfloat16 on a CPU about 600 times as slowly as the copy that an index
    makes: 53 s against 0.09 s for 36 sequences and a vocabulary of 151,936 tokens.
    """
    return torch.tensor([ids.shape[1] - 1], device=ids.device)

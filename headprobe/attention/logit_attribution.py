"""Direct logit attribution: what a head's output adds to the logit of a token.

Only the direct path counts: u(y)^T W_O^h o_h, where o_h is a sum of values of head h. u(y) is the
token's row of the unembedding as the final norm lets it read the residual stream: multiplied by the
norm's gain and, where the norm subtracts the mean (LayerNorm), less its own mean. Left out are the
norm's division by the length of the residual stream, one number a step for all heads, and every
constant of the logits (scale, soft cap).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from headprobe.errors import HeadprobeError
from headprobe.models.loading import attention_modules

# Names of these parts by model family, the most common name first.
_PROJECTIONS = ("o_proj", "out_proj", "dense", "c_proj", "wo", "Wo")
_NORMS = ("norm", "ln_f", "final_layernorm", "final_layer_norm", "embedding_norm", "norm_f")
_PLAIN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class LogitAttribution:
    """Computes what each head of a model adds to the logits.

    Args:
        model: a causal language model; its weights are used in place, not copied.
        heads: the number of query heads in a layer.

    Raises:
        HeadprobeError: the weights cannot be found, or are not there as plain matrices.
    """

    def __init__(self, model: PreTrainedModel, heads: int) -> None:
        unembedding = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        self._unembedding = _matrix(model, unembedding, "unembedding")
        self._gain, self._centres = _read_norm(_final_norm(model), self._unembedding)
        self._outputs = output_projections(model, heads)

    def logits(
        self,
        layer: int,
        outputs: Float[Tensor, "query_head step value_dim"],
        tokens: Int[Tensor, " step"],
    ) -> Float[Tensor, "query_head step"]:
        """Compute what each head's output at a step adds to the logit of that step's token.

        Args:
            layer: the layer of the heads.
            outputs: each head's weighted sum of values, before the output projection.
            tokens: the token of each step.

        Returns:
            The contribution to the logit in float32, without the final norm's division.
        """
        heads, steps, _ = outputs.shape
        weight = self._outputs[layer]
        row = self._unembedding[tokens.to(self._unembedding.device)].float() * self._gain
        row = row - row.mean(dim=-1, keepdim=True) if self._centres else row
        read = (row.to(weight.device) @ weight.float()).view(steps, heads, -1)
        # Flash kernels get values padded to the width of the keys (deepseek).
        return torch.einsum("hsv,shv->hs", outputs[..., : read.shape[-1]].float(), read)


def output_projections(
    model: PreTrainedModel, heads: int
) -> dict[int, Float[Tensor, "hidden query_head_times_value_dim"]]:
    """Find the output projection of every layer's attention; weights are used in place.

    Args:
        model: a causal language model.
        heads: the number of query heads in a layer.

    Raises:
        HeadprobeError: the weights cannot be found, or are not there as plain matrices.
    """
    hidden = model.config.get_text_config(decoder=True).hidden_size
    found = {}
    for layer, attention in attention_modules(model).items():
        parts = (getattr(attention, name, None) for name in _PROJECTIONS)
        projection = next((part for part in parts if part is not None), None)
        weight = _matrix(model, projection, "output projection")
        weight = weight.T if isinstance(projection, Conv1D) else weight
        if weight.shape[0] != hidden or weight.shape[1] % heads:
            raise _not_found(model, "output projection")
        found[layer] = weight
    return found


def _final_norm(model: PreTrainedModel) -> Any:
    """Find the norm before the unembedding: the one norm that lies in no layer."""
    decoder = model.get_decoder()  # type: ignore[no-untyped-call]
    for name, part in decoder.named_modules():
        *path, last = name.split(".")
        if last in _NORMS and not any(step.isdigit() for step in path):
            return part
    raise _not_found(model, "final norm")


def _matrix(model: PreTrainedModel, module: Any, what: str) -> Tensor:
    """Return the weight of a linear map; fail where it is quantized or offloaded."""
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and weight.dtype in _PLAIN and not weight.is_meta:
        return weight.detach()
    raise _not_found(model, what)


def _not_found(model: PreTrainedModel, what: str) -> HeadprobeError:
    return HeadprobeError(
        f"cannot find the {what} of this {model.config.model_type!r} model as plain weights in "
        "memory; leave locos out of `measures`, and value out of `selection`"
    )


@torch.no_grad()
def _read_norm(norm: Any, like: Tensor) -> tuple[Float[Tensor, " hidden"], bool]:
    """Find a norm's gain for every entry, and whether it subtracts the mean.

    Both are read off the norm's outputs, since families store the gain differently: gemma and
    nemotron store it less 1, olmo has no weight. Inputs whose entries differ in sign alone are
    normalised to +1 and -1, so that the output is the gain; the bias cancels.
    """
    signs = like.new_ones(like.shape[1])
    signs[1::2] = -1
    # Scaled up, so that the norm's epsilon does not matter.
    given = 100 * torch.stack([signs, -signs, signs.abs(), -signs.abs()])
    up, down, high, low = norm(given[None])[0].float()
    gain = (up - down) / 2 * signs.float()
    return gain, bool((high - low).abs().max() < gain.abs().max())

"""DuoAttention's heads on the fly, as kvpress scores them: how far back a mean query looks.

The mean query and the mean key of a text, both before rotation, stand at 500 positions each,
rotated. The last query attends to all keys; the mean of its cumulated attention is near 1 where
it looks far back, near 0 where it looks at the newest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headprobe.attention.observe import patched_attention
from headprobe.attention.rotary import RotaryWatch
from headprobe.attention.rows import attention_rows
from headprobe.measures._text import TextMeasure, by_layer
from headprobe.models.logits import last_position

if TYPE_CHECKING:
    from headprobe.attention.rotary import Unrotated
    from headprobe.models.loading import LoadedModel

POSITIONS = 500


def read(
    loaded: LoadedModel, ids: Int[Tensor, "1 token"], prefill_chunk: int
) -> Float[Tensor, "layer query_head"]:
    """Read a text in one forward pass, and score every head by its mean query and key."""
    watch = RotaryWatch(loaded.model)
    found: dict[int, Tensor] = {}

    def attend(
        original: Any, module: Any, query: Tensor, key: Tensor, *rest: Any, **kwargs: Any
    ) -> Any:
        found[module.layer_idx] = _look_back(watch.before(query, key), kwargs)
        return original(module, query, key, *rest, **kwargs)

    with watch.watching(loaded.model), patched_attention(loaded.model, attend):
        loaded.model(ids, use_cache=False, logits_to_keep=last_position(ids))
    return by_layer(loaded, found)


def _look_back(
    unrotated: Unrotated, attention_kwargs: dict[str, Any]
) -> Float[Tensor, " query_head"]:
    """Return the mean of the cumulated attention of the last of ``POSITIONS`` mean queries."""
    query, key = (part[0].float().mean(dim=1) for part in (unrotated.query, unrotated.key))
    if unrotated.rotation is None:
        keys = key[:, None].expand(-1, POSITIONS, -1)
        last = query[:, None]
    else:
        keys = unrotated.rotation.at(range(POSITIONS), key)
        last = unrotated.rotation.at(range(POSITIONS - 1, POSITIONS), query)
    everything = torch.ones(1, 1, POSITIONS, dtype=torch.bool, device=keys.device)
    rows = attention_rows(last, keys, everything, attention_kwargs)
    return rows[:, 0].cumsum(dim=-1).mean(dim=-1)


MEASURE = TextMeasure(
    summary="how far back the mean query of a text looks (DuoAttention on the fly)", read=read
)

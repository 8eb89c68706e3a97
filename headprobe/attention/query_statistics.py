"""Read texts and average every head's queries as they are before their rotation (TriAttention).

A layer's queries are taken where it rotates them, so they are normalised where the model has a norm
of queries, and scaled, partial and interleaved rotations come out as the model computes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int
from torch import Tensor

from headprobe.attention.kernels import share_heads
from headprobe.attention.observe import patched_attention
from headprobe.attention.prefix_cache import read_through
from headprobe.attention.rotary import RotaryWatch, Rotation
from headprobe.errors import HeadprobeError
from headprobe.scores.statistics import QueryStatistics

if TYPE_CHECKING:
    from headprobe.models.loading import LoadedModel

_PROBE = tuple(range(1, 7))
"""Tokens by which it is checked that a model's rotations are understood."""


class _LayerSums:
    """The sums over tokens of one layer's queries, and how the layer rotates them."""

    def __init__(self, rotation: Rotation, head_dim: int, device: torch.device) -> None:
        self.style, self.inv_freq, self.freq_scale = _frequencies(rotation, head_dim, device)
        self.count = 0
        self.real, self.imag, self.length, self.passed = (torch.zeros(()) for _ in range(4))

    def add(self, query: Float[Tensor, "query_head query head_dim"]) -> None:
        """Add the queries of some tokens."""
        width = 2 * len(self.inv_freq)
        turned = query[..., :width].float()
        if self.style == "half":
            real, imag = turned.chunk(2, dim=-1)
        else:
            real, imag = turned[..., ::2], turned[..., 1::2]
        self.count += query.shape[1]
        self.real = self.real + _sum(real)
        self.imag = self.imag + _sum(imag)
        self.length = self.length + _sum(torch.hypot(real, imag))
        self.passed = self.passed + _sum(query[..., width:].float())


def query_statistics(
    loaded: LoadedModel, texts: Sequence[Sequence[int]], *, prefill_chunk: int
) -> QueryStatistics:
    """Average the queries of every head over the tokens of some texts.

    Raises:
        HeadprobeError: no layer rotates its queries, layers rotate other numbers of dimensions, or
            a rotation is of an unknown kind.
    """
    found = _read(loaded, texts, prefill_chunk)
    if not found:
        raise _refusal(loaded, "it does not rotate queries")
    layers = [found[index] for index in sorted(found)]
    if len({(one.style, one.real.shape, one.passed.shape) for one in layers}) > 1:
        raise _refusal(loaded, "its layers rotate different dimensions")
    return QueryStatistics(
        layers=np.array(sorted(found)),
        q_mean_real=np.stack([_mean(one.real, one.count) for one in layers]),
        q_mean_imag=np.stack([_mean(one.imag, one.count) for one in layers]),
        q_abs_mean=np.stack([_mean(one.length, one.count) for one in layers]),
        q_pass_mean=np.stack([_mean(one.passed, one.count) for one in layers]),
        inv_freq=np.stack([one.inv_freq for one in layers]),
        freq_scale=np.stack([one.freq_scale for one in layers]),
        header={
            "rope_style": layers[0].style,
            **_described(loaded.model.config),
            "dtype": loaded.dtype,
            "texts": len(texts),
            "tokens": layers[0].count,
        },
    )


def require_statistics(loaded: LoadedModel) -> None:
    """Check on a few tokens that the statistics of a model can be had.

    Raises:
        HeadprobeError: they cannot.
    """
    query_statistics(loaded, [_PROBE], prefill_chunk=len(_PROBE))


@torch.inference_mode()
def _read(
    loaded: LoadedModel, texts: Sequence[Sequence[int]], prefill_chunk: int
) -> dict[int, _LayerSums]:
    """Read texts one by one, and sum the queries of each layer that rotates them."""
    watch = RotaryWatch(loaded.model)
    found: dict[int, _LayerSums] = {}

    def attend(
        original: Any, module: Any, query: Tensor, key: Tensor, *rest: Any, **kwargs: Any
    ) -> Any:
        own = watch.before(query, key)
        if own.rotation is not None:
            if module.layer_idx not in found:
                start = key.shape[2] - query.shape[2]
                _check(loaded, own.rotation, own.query[0], query[0], start)
                head_dim, device = query.shape[-1], query.device
                found[module.layer_idx] = _LayerSums(own.rotation, head_dim, device)
            found[module.layer_idx].add(own.query[0])
        return share_heads(original, module, query, key, *rest, **kwargs)

    def run(ids: Int[Tensor, "1 token"], **inputs: Any) -> None:
        with watch.watching(loaded.model), patched_attention(loaded.model, attend):
            loaded.model(ids, **inputs)

    for text in texts:
        ids = torch.tensor([[*text]], device=loaded.device)
        read_through(loaded.model, ids, prefill_chunk=prefill_chunk, run=run)
    return found


def _check(
    loaded: LoadedModel,
    rotation: Rotation,
    before: Float[Tensor, "query_head query head_dim"],
    after: Float[Tensor, "query_head query head_dim"],
    start: int,
) -> None:
    """Refuse a rotation that does not take the queries before it to those after it."""
    for token in range(min(len(_PROBE), before.shape[1])):
        place = start + token
        turned = rotation.at(range(place, place + 1), before[:, token])[:, 0]
        if not torch.allclose(turned, after[:, token].float(), rtol=0.02, atol=0.02):
            raise _refusal(loaded, "its rotation of queries is of an unknown kind")


def _frequencies(
    rotation: Rotation, head_dim: int, device: torch.device
) -> tuple[str, Float32[np.ndarray, " frequency"], Float32[np.ndarray, " frequency"]]:
    """Return the rope style, and the angle and the scale by which a position turns each frequency.

    They are read off the images of the unit vectors at positions 0 and 1.
    """
    unit = torch.eye(head_dim, device=device)
    still, turned = rotation.at(range(2), unit).double().cpu().unbind(dim=1)
    # Some models split off the dimensions that pass in their rotation itself (glm).
    width = int((turned != unit.double().cpu()).any(dim=1).nonzero().max()) + 1
    first = {"half": torch.arange(width // 2), "interleaved": torch.arange(0, width, 2)}
    for style, real in first.items():
        imag = real + (width // 2 if style == "half" else 1)
        angle = torch.atan2(turned[real, imag], turned[real, real])
        scale = still[real, real]
        expected = torch.eye(head_dim, dtype=torch.float64)
        expected[real, real] = expected[imag, imag] = scale * angle.cos()
        expected[real, imag], expected[imag, real] = scale * angle.sin(), -scale * angle.sin()
        if (angle >= 0).all() and torch.allclose(turned, expected, atol=1e-3):
            return style, angle.float().numpy(), scale.float().numpy()
    raise HeadprobeError(
        "the model pairs the dimensions of its rotation in an unknown way: leave out `statistics`"
    )


def _sum(
    numbers: Float32[Tensor, "query_head query part"],
) -> Float64[Tensor, "query_head part"]:
    return numbers.sum(dim=1).cpu().double()


def _mean(
    total: Float64[Tensor, "query_head part"], count: int
) -> Float32[np.ndarray, "query_head part"]:
    mean: np.ndarray = (total / count).float().numpy()
    return mean


def _described(config: Any) -> dict[str, Any]:
    """Return what a configuration says of its rotation; ``None`` where kinds of layers differ."""
    told = getattr(config.get_text_config(decoder=True), "rope_parameters", None) or {}
    return {name: told.get(name) for name in ("rope_type", "rope_theta")}


def _refusal(loaded: LoadedModel, why: str) -> HeadprobeError:
    return HeadprobeError(
        f"cannot gather the query statistics of a {loaded.model.config.model_type!r} model: {why}; "
        "leave out `statistics`"
    )

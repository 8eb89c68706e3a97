"""The mean queries of every head before rotation, by which TriAttention scores cached keys.

Of TriAttention (arXiv 2604.04921): a head's rotated dimensions are complex numbers, one for each
frequency of the rotation. Their mean and their mean length say where the head's queries look.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

PREFIX = "statistics."
_MEANS = ("q_mean_real", "q_mean_imag", "q_abs_mean")
_TURNS = ("inv_freq", "freq_scale")
_TENSORS = ("layers", *_MEANS, "q_pass_mean", *_TURNS)


@dataclass(frozen=True, eq=False, kw_only=True)
class QueryStatistics:
    """Means over tokens of every query head's queries, normalised and not yet rotated.

    ``layers`` are the layers that rotate their queries, the others are left out. Query dimensions
    f and its partner are real and imaginary part of the complex number of frequency f: the partner
    is ``frequencies`` further in rope style ``half``, the next one in style ``interleaved``.
    ``q_pass_mean`` is the mean of the dimensions that are not rotated. A token at position p is
    turned by p * ``inv_freq`` and scaled by ``freq_scale``.

    ``header`` holds ``rope_style``, ``rope_type`` and ``rope_theta`` of the configuration (the
    latter ``None`` where layers differ), the ``dtype`` of the model, and the numbers of ``texts``
    and ``tokens`` that were read.
    """

    layers: Int64[np.ndarray, " layer"]
    q_mean_real: Float32[np.ndarray, "layer query_head frequency"]
    q_mean_imag: Float32[np.ndarray, "layer query_head frequency"]
    q_abs_mean: Float32[np.ndarray, "layer query_head frequency"]
    q_pass_mean: Float32[np.ndarray, "layer query_head passed"]
    inv_freq: Float32[np.ndarray, "layer frequency"]
    freq_scale: Float32[np.ndarray, "layer frequency"]
    header: Mapping[str, Any]

    def __post_init__(self) -> None:
        sizes = (*self.q_mean_real.shape, *self.q_pass_mean.shape[2:])
        if len(sizes) != 4:
            raise ValueError(f"expected {PREFIX} means of three dimensions, got {sizes}")
        layers, heads, frequencies, passed = sizes
        shapes: dict[str, tuple[int, ...]] = {
            "layers": (layers,),
            "q_pass_mean": (layers, heads, passed),
            **dict.fromkeys(_MEANS, (layers, heads, frequencies)),
            **dict.fromkeys(_TURNS, (layers, frequencies)),
        }
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"expected {PREFIX}{name} of shape {shape}")
        for name, tensor in self.to_tensors().items():
            if not np.isfinite(tensor).all():
                raise ValueError(f"expected finite numbers in {name}")

    @property
    def rotary_dim(self) -> int:
        """The number of dimensions of a head that are rotated."""
        return 2 * int(self.q_mean_real.shape[2])

    @property
    def head_dim(self) -> int:
        """The number of dimensions of a head."""
        return self.rotary_dim + int(self.q_pass_mean.shape[2])

    @property
    def is_plain(self) -> bool:
        """True where all dimensions turn in all layers as ``rope_theta`` alone says."""
        theta = self.header.get("rope_theta")
        if theta is None or self.rotary_dim != self.head_dim:
            return False
        plain = float(theta) ** (-2 * np.arange(self.rotary_dim // 2) / self.rotary_dim)
        close = np.isclose(self.inv_freq, plain, rtol=1e-4).all()
        return bool(close and np.isclose(self.freq_scale, 1, rtol=1e-4).all())

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, np.ndarray], header: Mapping[str, Any] | None
    ) -> QueryStatistics | None:
        """Take the statistics from a run's tensors; ``None`` where there are none.

        Raises:
            ValueError: there are only some of them, or they do not fit together.
        """
        if header is None:
            return None
        if missing := [name for name in _TENSORS if f"{PREFIX}{name}" not in tensors]:
            raise ValueError(f"it lacks '{PREFIX}{missing[0]}'")
        return cls(header=header, **{name: tensors[f"{PREFIX}{name}"] for name in _TENSORS})

    def to_tensors(self) -> dict[str, np.ndarray]:
        """Return the tensors that a run keeps."""
        return {f"{PREFIX}{name}": getattr(self, name) for name in _TENSORS}

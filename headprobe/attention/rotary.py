"""Watch how a model rotates its queries: the queries before RoPE, and the rotation of positions.

transformers computes the cosines and sines of positions in a module, and a function of the
modelling file, ``apply_rotary_pos_emb``, rotates a layer's queries with them. Both are watched, so
that scaled, partial and interleaved rotations, and layers with a rotation of their own or none,
come out as the model computes them.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from transformers import PreTrainedModel

from headprobe.attention.observe import modelling_files, replaced
from headprobe.errors import HeadprobeError

_ROTATE = "apply_rotary_pos_emb"
Embed = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Computes cosines and sines of token positions."""
_KINDS = 4
"""The most kinds of layers of one model that rotate differently."""


class Rotation:
    """The rotation of one layer's queries: ``width`` leading dimensions of a head are rotated."""

    def __init__(self, rotate: Callable[..., Any], width: int, embedding: Embed) -> None:
        self._rotate = rotate
        self._width = width
        self._embedding = embedding

    def mean(
        self, positions: range, *, head_dim: int, device: torch.device
    ) -> Float32[Tensor, "head_dim head_dim"]:
        """Return the mean over ``positions`` of the matrices that rotate a query, in float32."""
        cos, sin = self._embedding(torch.tensor([positions], device=device))
        basis = torch.eye(self._width, device=device)[None, None]
        # A rotation is linear in its cosines and sines.
        angles = (one.float().mean(dim=1, keepdim=True) for one in (cos, sin))
        cos, sin = (one.expand(-1, self._width, -1) for one in angles)
        rotated = self._rotate(basis, basis, cos, sin)[0][0, 0]
        whole = torch.eye(head_dim, device=device)
        whole[: self._width, : self._width] = rotated.mT
        return whole

    def at(
        self, positions: range, vectors: Float[Tensor, "head head_dim"]
    ) -> Float32[Tensor, "head position head_dim"]:
        """Rotate each vector to each of the positions, in float32."""
        cos, sin = self._embedding(torch.tensor([positions], device=vectors.device))
        repeated = vectors.float()[:, None].expand(-1, len(positions), -1)
        turned = repeated[None, ..., : self._width]
        rotated = self._rotate(turned, turned, cos.float(), sin.float())[0][0]
        return torch.cat([rotated, repeated[..., self._width :]], dim=-1)


@dataclass(frozen=True, eq=False, kw_only=True)
class Unrotated:
    """A layer's new queries and keys before their rotation, and the rotation, if it has one."""

    query: Float[Tensor, "batch query_head query head_dim"]
    key: Float[Tensor, "batch kv_head query head_dim"]
    rotation: Rotation | None


class RotaryWatch:
    """Keeps the newest layer's queries and keys as they were before their rotation."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model_type = model.config.model_type
        self._embeddings: list[tuple[Tensor, Embed]] = []
        self._newest: tuple[Tensor, Tensor, Callable[..., Any], Tensor] | None = None
        self._has_rotated = False

    @contextmanager
    def watching(self, model: PreTrainedModel) -> Iterator[None]:
        """Watch the model's rotations inside the ``with`` block."""
        with ExitStack() as watched:
            for module in model.modules():
                if type(module).__name__.endswith("RotaryEmbedding"):
                    handle = module.register_forward_hook(self._embedded, with_kwargs=True)
                    watched.callback(handle.remove)
            for file in modelling_files(model.modules()):
                if hasattr(file, _ROTATE):
                    watched.enter_context(replaced(vars(file), _ROTATE, self._wrap))
            yield

    def before(
        self,
        query: Float[Tensor, "batch query_head query head_dim"],
        key: Float[Tensor, "batch kv_head key head_dim"],
    ) -> Unrotated:
        """Return the newest layer's new queries and keys before rotation.

        Args:
            query: the queries of that layer after rotation.
            key: its keys after rotation, the new ones last.

        Raises:
            HeadprobeError: the model rotates queries in a way that is not known.
        """
        new = key[:, :, key.shape[2] - query.shape[2] :]
        if self._newest is None:
            if self._embeddings and not self._has_rotated:
                raise self._unknown()
            return Unrotated(query=query, key=new, rotation=None)
        (*turned, rotate, cos), self._newest = self._newest, None
        width = turned[0].shape[-1]
        own = [
            torch.cat([part, whole[..., width:]], dim=-1)
            for part, whole in zip(turned, (query, new), strict=True)
        ]
        rotation = Rotation(rotate, width, self._source(cos))
        return Unrotated(query=own[0], key=own[1], rotation=rotation)

    def _embedded(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """Remember how a module computed its cosines, to compute those of other positions."""
        if not isinstance(output, tuple):
            # A rotation of another kind: no function of the name above takes it.
            self._embeddings = [(torch.empty(0), lambda positions: output)]
            return
        given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        name = next(iter(given))

        def embed(positions: Tensor) -> tuple[Tensor, Tensor]:
            # Some modules change what they hold when positions are new.
            own = copy.deepcopy(module)
            own._forward_hooks.clear()
            own._forward_hooks_with_kwargs.clear()
            exact = torch.empty(0, dtype=torch.float32, device=positions.device)
            found: tuple[Tensor, Tensor] = own(**given | {name: exact, "position_ids": positions})
            return found

        self._embeddings = [*self._embeddings[1 - _KINDS :], (output[0], embed)]

    def _wrap(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def rotate(query: Tensor, key: Tensor, cos: Tensor, *args: Any, **kwargs: Any) -> Any:
            self._has_rotated = True
            self._newest = query.detach(), key.detach(), original, cos
            return original(query, key, cos, *args, **kwargs)

        return rotate

    def _source(self, cos: Tensor) -> Embed:
        """Find what computed the cosines; a layer on another device has a copy of them."""
        for known, embed in reversed(self._embeddings):
            is_copy = known.shape == cos.shape and bool((known.to(cos.device) == cos).all())
            if known is cos or is_copy:
                return embed
        raise self._unknown()

    def _unknown(self) -> HeadprobeError:
        return HeadprobeError(
            f"cannot follow the rotary embedding of a {self._model_type!r} model: leave out what "
            "needs its queries unrotated (`selection=expected`, `statistics`)"
        )

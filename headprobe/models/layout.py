"""Which model a matrix of heads belongs to, and how its heads are arranged."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

Head = tuple[int, int]
"""A query head: its layer, and which of the layer's heads it is."""


@dataclass(frozen=True, kw_only=True)
class HeadLayout:
    """The heads of one model.

    ``num_heads`` counts query heads a layer and ``num_kv_heads`` KV heads a layer; KV head k serves
    the contiguous query heads ``k * group ... k * group + group - 1``.
    """

    id: str
    architecture: str
    layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "kv_heads", "head_dim"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"expected a positive integer for {name}, got {value!r}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"expected heads to be a multiple of kv_heads, got {self.num_heads} and "
                f"{self.num_kv_heads}"
            )

    @property
    def group_size(self) -> int:
        """Query heads that share one KV head."""
        return self.num_heads // self.num_kv_heads

    def to_json(self) -> dict[str, Any]:
        """The ``model`` object of a run's header and of a budget file."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> HeadLayout:
        """Read a ``model`` object; ``ValueError`` names the field that is missing or wrong."""
        wanted = cls.__dataclass_fields__
        missing = [name for name in wanted if name not in fields]
        if missing:
            raise ValueError(f"expected model.{missing[0]}, got none")
        return cls(**{name: fields[name] for name in wanted})

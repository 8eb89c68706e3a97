"""The record of a model's heads: how many layers, query heads and KV heads it has."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from headprobe.errors import UsageError

Head = tuple[int, int]
"""A query head: its layer, and its index among the layer's query heads."""

# A field of the record for each field of a ``model`` object in a file.
MODEL_FIELDS = {
    "id": "id",
    "architecture": "architecture",
    "layers": "layers",
    "heads": "num_heads",
    "kv_heads": "num_kv_heads",
    "head_dim": "head_dim",
}
SIZES = ("layers", "heads", "kv_heads")
_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")


@dataclass(frozen=True, kw_only=True)
class HeadLayout:
    """The heads of one model.

    ``num_heads`` counts the query heads of a layer and ``num_kv_heads`` its KV heads. KV head k
    serves the ``group_size`` contiguous query heads from ``k * group_size`` on.
    """

    id: str
    architecture: str
    layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "kv_heads", "head_dim"):
            value = getattr(self, MODEL_FIELDS[name])
            if type(value) is not int or value < 1:
                raise ValueError(f"expected a positive integer for {name}, got {value!r}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"expected heads to be a multiple of kv_heads, got {self.num_heads} and "
                f"{self.num_kv_heads}"
            )

    @property
    def name(self) -> str:
        """The model as titles name it: of the path of a directory or file the last part."""
        return model_name(self.id)

    @property
    def group_size(self) -> int:
        """The number of query heads that share one KV head."""
        return self.num_heads // self.num_kv_heads

    def to_json(self) -> dict[str, Any]:
        """Return the ``model`` object of a run's header and of a budget file."""
        return {name: getattr(self, field) for name, field in MODEL_FIELDS.items()}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> HeadLayout:
        """Make a layout from a ``model`` object; ``ValueError`` names a missing or wrong field."""
        missing = [name for name in MODEL_FIELDS if name not in fields]
        if missing:
            raise ValueError(f"expected model.{missing[0]}, got none")
        return cls(**{field: fields[name] for name, field in MODEL_FIELDS.items()})


def is_hub_id(model: str) -> bool:
    """Return whether a model is named as one on the hub, ``owner/name`` or ``owner/name:file``."""
    return _HUB_ID.fullmatch(model.partition(":")[0]) is not None


def model_name(model: str) -> str:
    """Return a model's name for titles: of the path of a directory or file the last part."""
    parts = [part for part in re.split(r"[\\/]", model) if part]
    return model if is_hub_id(model) or not parts else parts[-1]


def check_same_heads(
    one: HeadLayout,
    other: HeadLayout,
    *,
    names: tuple[str, str],
    fields: Collection[str] = SIZES,
    option: str | None = None,
) -> None:
    """Refuse scores, budgets and models that do not belong to the same heads.

    Args:
        one: the first layout.
        other: the second layout.
        names: what the two layouts are of, in the error.
        fields: the fields of a ``model`` object in which the two must agree.
        option: the parameter that gave the second, if one did.

    Raises:
        UsageError: the layouts differ; the message names the first field that does.
    """
    first, second = one.to_json(), other.to_json()
    for field in fields:
        if first[field] != second[field]:
            raise UsageError(
                f"{names[0]} is of {one.id} and {names[1]} of {other.id}, which differ in {field}, "
                f"{first[field]} and {second[field]}: give scores, budgets and a model that belong "
                "together",
                option=option,
                value=other.id if option else None,
            )

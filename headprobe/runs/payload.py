"""The stored form of one unit of work."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headprobe.inputs.strict_json import json_object

_FIELDS = "fields"


class UnreadablePayload(Exception):
    """A payload lacks what its unit is made of; the unit is done again."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Payload:
    """The stored form of one unit: ``fields`` that JSON can hold, and ``arrays``."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    def field(self, name: str) -> Any:
        """Return a field.

        Raises:
            UnreadablePayload: there is no such field.
        """
        if name not in self.fields:
            raise UnreadablePayload(f"expected field {name}, got {', '.join(self.fields)}")
        return self.fields[name]

    def array(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """Return an array.

        Raises:
            UnreadablePayload: there is no such array, or it has another shape.
        """
        if name not in self.arrays:
            raise UnreadablePayload(f"expected array {name}, got {', '.join(self.arrays)}")
        found = self.arrays[name]
        if found.shape != shape:
            raise UnreadablePayload(f"expected {name} of shape {shape}, got {found.shape}")
        return found

    def to_bytes(self) -> bytes:
        """Return the payload as one safetensors blob, the fields in its metadata."""
        from safetensors.numpy import save

        arrays = {name: np.asarray(array, order="C") for name, array in self.arrays.items()}
        return save(arrays, metadata={_FIELDS: json.dumps(dict(self.fields))})

    @classmethod
    def from_bytes(cls, data: bytes) -> Payload:
        """Read a payload from its safetensors blob.

        Raises:
            UnreadablePayload: the bytes are no payload.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            arrays = load(data)
            size = int.from_bytes(data[:8], "little")
            stored = json_object(data[8 : 8 + size].decode())
            fields = json_object(stored.get("__metadata__", {}).get(_FIELDS, ""))
        except (SafetensorError, ValueError) as error:
            raise UnreadablePayload(f"expected a payload, got other bytes: {error}") from error
        return cls(fields=fields, arrays=arrays)

"""The stored form of one unit of work."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_FIELDS = "fields"


@dataclass(frozen=True, eq=False, kw_only=True)
class Payload:
    """The stored form of one unit: ``fields`` that JSON can hold, and ``arrays``."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the payload as one safetensors blob, the fields in its metadata."""
        from safetensors.numpy import save

        arrays = {name: np.asarray(array, order="C") for name, array in self.arrays.items()}
        return save(arrays, metadata={_FIELDS: json.dumps(dict(self.fields))})

    @classmethod
    def from_bytes(cls, data: bytes) -> Payload:
        """Read a payload from its safetensors blob.

        Raises:
            ValueError: the bytes are no payload.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            size = int.from_bytes(data[:8], "little")
            header = json.loads(data[8 : 8 + size])
            fields = json.loads(header["__metadata__"][_FIELDS])
            return cls(fields=fields, arrays=load(data))
        except (SafetensorError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"expected a payload, got other bytes: {error}") from error

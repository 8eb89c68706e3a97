"""Read GGUF files, llama.cpp's format: configuration, tokenizer and weights in one file.

transformers dequantizes them. The header is read here first: a damaged header would keep the
package gguf busy for hours, and transformers leaves out two facts that the header holds, the
scaling of RoPE and the ends of answers (github.com/ggml-org/ggml/blob/master/docs/gguf.md).
"""

from __future__ import annotations

import io
import math
import mmap
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from transformers import PreTrainedModel

from headprobe.errors import HeadprobeError, UsageError
from headprobe.models.options import GGUF_SUFFIX

_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
_NUMBERS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_ALIGNMENT = 32
_FLOAT32 = 0
# The type of dequantized weights by default; weights that are not quantized keep their type.
_PLAIN_DTYPES = {0: "float32", 1: "float16", 30: "bfloat16"}
_QUANTIZED_DTYPE = "bfloat16"
_ENDS = ("eos", "eot", "eom")


@dataclass(frozen=True, kw_only=True)
class GgufTensor:
    """A tensor's shape in torch's order, ggml's number of its type, its first byte and size."""

    shape: tuple[int, ...]
    type: int
    start: int
    nbytes: int


@dataclass(frozen=True, eq=False, kw_only=True)
class GgufHeader:
    """The header of a GGUF file, which stands before its weights.

    ``metadata`` holds single values; an array is represented by its length.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]

    @property
    def architecture(self) -> str:
        """The architecture as llama.cpp calls it, such as ``qwen2``."""
        return str(self.metadata["general.architecture"])

    @property
    def dtype(self) -> str:
        """The type of the weights as stored, or as dequantized."""
        largest = max(self.tensors.values(), key=lambda tensor: tensor.nbytes)
        return _PLAIN_DTYPES.get(largest.type, _QUANTIZED_DTYPE)

    @property
    def numbers(self) -> int:
        """The number of weights in the file."""
        return sum(math.prod(tensor.shape) for tensor in self.tensors.values())

    @property
    def answer_ends(self) -> list[int]:
        """The tokens that end an answer or a turn."""
        found = {self.metadata.get(f"tokenizer.ggml.{end}_token_id") for end in _ENDS}
        return sorted(end for end in found if isinstance(end, int))

    def rope(self, name: str) -> Any:
        """Return one of the architecture's RoPE settings; ``None`` if it is missing."""
        return self.metadata.get(f"{self.architecture}.rope.{name}")

    def floats(self, name: str) -> Float32[np.ndarray, " value"] | None:
        """Read the numbers of a small float32 tensor; ``None`` if it is missing."""
        tensor = self.tensors.get(name)
        if tensor is None or tensor.type != _FLOAT32:
            return None
        count = math.prod(tensor.shape)
        return np.fromfile(self.path, dtype="<f4", count=count, offset=tensor.start)


def require_gguf() -> None:
    """Refuse GGUF files where a package that transformers needs to read them is missing.

    Raises:
        UsageError: gguf or accelerate is not installed.
    """
    for package in ("gguf", "accelerate"):
        if find_spec(package) is None:
            raise UsageError(
                f"GGUF files need the package {package}: pip install 'headprobe[gguf]'"
            )


def refuse_parts(path: Path) -> None:
    """Refuse a file that is one of several into which a model was split.

    Raises:
        UsageError: the file's name says that it is one of several.
    """
    part = _PART.search(path.name)
    if part:
        whole = _PART.sub(GGUF_SUFFIX, path.name)
        first = _PART.sub(f"-00001-of-{part[2]}{GGUF_SUFFIX}", path.name)
        raise UsageError(
            f"{path.name} is part {int(part[1])} of {int(part[2])} of a model: join them with "
            f"`llama-gguf-split --merge {first} {whole}`, and give {whole}"
        )


def read_header(path: Path) -> GgufHeader:
    """Read the header of a GGUF file, and check that the file holds all its weights.

    Raises:
        UsageError: the file is one of several parts.
        HeadprobeError: the file is no GGUF file, of an unknown version, damaged or cut short.
    """
    refuse_parts(path)
    with path.open("rb") as file:
        start = file.read(8)
        _check_start(path, start)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, _reading(path):
            header = _Cursor(data).header(path)
    parts = header.metadata.get("split.count", 0)
    if parts > 1:
        raise UsageError(
            f"{path.name} is one of {parts} parts of a model: join them with "
            "`llama-gguf-split --merge`, and give the file that it writes"
        )
    size = path.stat().st_size
    end = max(tensor.start + tensor.nbytes for tensor in header.tensors.values())
    if end > size:
        raise HeadprobeError(
            f"{path} is cut short: its weights take {end:,} bytes, and it has {size:,}; "
            "download or copy it again"
        )
    return header


@contextmanager
def dequantizing() -> Iterator[dict[str, Any]]:
    """Yield keywords with which ``from_pretrained`` dequantizes weights; silence stderr.

    Newer releases of transformers would keep some architectures packed, for kernels from the hub.
    """
    import transformers

    packed = getattr(transformers, "GgufConfig", None)
    with redirect_stderr(io.StringIO()):
        yield {} if packed is None else {"quantization_config": packed(dequantize=True)}


def scale_rope(config: Any, header: GgufHeader) -> None:
    """Add the scaling of RoPE to a configuration that transformers made from a GGUF file.

    transformers reads only the base. The tensor ``rope_freqs`` holds Llama 3.1's divisors,
    ``rope_factors_long`` and ``rope_factors_short`` hold Phi-3's.

    Raises:
        HeadprobeError: the configuration cannot express the scaling.
    """
    scaling = _rope_scaling(header)
    given = getattr(config, "rope_parameters", None)
    if scaling is None or not isinstance(given, dict) or header.architecture == "gpt-oss":
        return
    # Gemma 3 scales only the layers that see all of the context.
    place = given.get("full_attention", given)
    place.update(scaling)
    original = scaling.get("original_max_position_embeddings")
    if original and hasattr(config, "original_max_position_embeddings"):
        config.original_max_position_embeddings = original


def check_rope(model: PreTrainedModel, header: GgufHeader) -> None:
    """Check that a model's RoPE frequencies equal the base frequencies over the file's divisors.

    Raises:
        HeadprobeError: the frequencies differ.
    """
    divisors = header.floats("rope_freqs.weight")
    rotary = next((part for part in model.modules() if hasattr(part, "inv_freq")), None)
    if divisors is None or rotary is None:
        return
    found = torch.as_tensor(rotary.inv_freq).float().cpu().numpy()
    base = model.config.rope_parameters["rope_theta"]
    plain = float(base) ** -(np.arange(len(divisors)) / len(divisors))
    if found.shape != divisors.shape or not np.allclose(found, plain / divisors, rtol=1e-3):
        raise HeadprobeError(
            f"{header.path} scales its positions (rope_freqs) otherwise than Llama 3.1 does, which "
            "transformers cannot do: give the model as safetensors"
        )


def _rope_scaling(header: GgufHeader) -> dict[str, Any] | None:
    """Return the header's RoPE scaling in the form of transformers' ``rope_parameters``."""
    factor = header.rope("scaling.factor") or header.rope("scale_linear")
    original = header.rope("scaling.original_context_length")
    kind = header.rope("scaling.type") or ("linear" if factor else "none")
    divisors = header.floats("rope_freqs.weight")
    long, short = (header.floats(f"rope_factors_{kind}.weight") for kind in ("long", "short"))
    if divisors is not None and divisors.max() > 1:
        return {
            "rope_type": "llama3",
            "factor": float(divisors.max()),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": original or 8192,
        }
    if long is not None and short is not None:
        return {
            "rope_type": "longrope",
            "long_factor": long.tolist(),
            "short_factor": short.tolist(),
            "original_max_position_embeddings": original or 4096,
        }
    if kind == "linear" and factor:
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn" and factor:
        return {
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original,
            **{
                name: value
                for name in ("beta_fast", "beta_slow")
                if (value := header.rope(f"scaling.yarn_{name}")) is not None
            },
        }
    if kind not in ("none", "linear", "yarn"):
        raise HeadprobeError(
            f"{header.path} scales its positions by {kind!r}, which is not read from GGUF files: "
            "give the model as safetensors"
        )
    return None


def _check_start(path: Path, start: bytes) -> None:
    if start[:4] != _MAGIC:
        raise HeadprobeError(f"{path} is no GGUF file: it begins with {start[:4]!r}")
    version = int.from_bytes(start[4:8], "little")
    if version not in _VERSIONS:
        swapped = int.from_bytes(start[4:8], "big") in _VERSIONS
        found = "is big-endian" if swapped else f"is GGUF version {version}"
        raise HeadprobeError(f"{path} {found}; little-endian files of version 2 or 3 are read")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn errors from reading past the file's end, or from odd text, into one line."""
    try:
        yield
    except (struct.error, UnicodeDecodeError, OverflowError) as error:
        raise HeadprobeError(
            f"{path} is a damaged GGUF file or cut short; download or copy it again"
        ) from error


class _Cursor:
    """Reads a header from front to back.

    A read past the end of the file fails: no count in the file is trusted.
    """

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 8

    def header(self, path: Path) -> GgufHeader:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

        tensor_count, field_count = self._numbers("QQ")
        metadata: dict[str, Any] = {}
        for _ in range(field_count):
            name = self._text()
            (kind,) = self._numbers("I")
            metadata[name] = self._value(kind)
        tensors = dict(self._tensor() for _ in range(tensor_count))
        alignment = metadata.get("general.alignment", _ALIGNMENT)
        known = {kind.value for kind in GGMLQuantizationType}
        odd = {kind for _, kind, _ in tensors.values()} - known
        if odd or not tensors or "general.architecture" not in metadata or alignment < 1:
            what = f"tensors of type {min(odd)}" if odd else "no tensors or no architecture"
            raise HeadprobeError(f"cannot read {path}: it has {what}")
        begin = math.ceil(self._at / alignment) * alignment
        placed = {}
        for name, (shape, kind, offset) in tensors.items():
            block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
            nbytes = math.prod(shape) // block * block_bytes
            placed[name] = GgufTensor(shape=shape, type=kind, start=begin + offset, nbytes=nbytes)
        return GgufHeader(path=path, metadata=metadata, tensors=placed)

    def _tensor(self) -> tuple[str, tuple[tuple[int, ...], int, int]]:
        name = self._text()
        (axes,) = self._numbers("I")
        shape = self._numbers(f"{axes}Q")[::-1]
        kind, offset = self._numbers("IQ")
        return name, (shape, kind, offset)

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text()
        if kind != _ARRAY:
            return self._numbers(self._form(kind))[0]
        element, count = self._numbers("IQ")
        if element in _NUMBERS:
            self._skip(count * struct.calcsize(_NUMBERS[element]))
        else:
            for _ in range(count):
                self._value(element) if element == _ARRAY else self._skip(*self._numbers("Q"))
        return count

    def _form(self, kind: int) -> str:
        if kind not in _NUMBERS:
            raise struct.error
        return _NUMBERS[kind]

    def _numbers(self, form: str) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{form}", self._data, self._at)
        self._at += struct.calcsize(f"<{form}")
        return found

    def _text(self) -> str:
        start = self._at + 8
        self._skip(*self._numbers("Q"))
        return self._data[start : self._at].decode()

    def _skip(self, count: int) -> None:
        self._at += count
        if self._at > len(self._data):
            raise struct.error

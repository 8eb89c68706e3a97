"""Check the files in a model's directory before transformers reads them.

transformers believes the files: a configuration of a million layers keeps it busy for hours, one
number too large takes all memory, and an index may name files elsewhere.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import PreTrainedModel

from headprobe.errors import HeadprobeError
from headprobe.models.reading import reading

_MOST_LAYERS = 1_000
_MOST_EXPERTS = 10_000
_LAYERS = re.compile(r"(num|n|encoder|decoder)_(\w+_)?layers?|depth|layers")
_EXPERTS = re.compile(r"(\w+_)?experts?")
_LONGEST_JSON = 2**26
_POINTER = b"version https://git-lfs.github.com/spec/"
_POINTER_BYTES = 1024
_TOKENIZERS = ("tokenizer*", "vocab*", "*.model", "*.tiktoken", "tekken*")
# Weight files in the order in which transformers tries them: one file, or parts with an index.
_WEIGHTS = (
    ("model*.safetensors", "model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model*.bin", "pytorch_model.bin", "pytorch_model.bin.index.json"),
)
# The count and the factor by which untied embeddings, buffers and missing weights may exceed the
# files, and the most weights in one number of a quantized file (two bits of sixteen).
_SPARE = 2**24
_UNTIED = 2
_PACKED = 16
# The packages that transformers needs to read a checkpoint, by method of quantization.
_PACKAGES = {
    "gptq": ("optimum", "gptqmodel"),
    "awq": ("gptqmodel",),
    "bitsandbytes": ("bitsandbytes", "accelerate"),
    "aqlm": ("aqlm",),
    "auto-round": ("auto_round",),
    "compressed-tensors": ("compressed_tensors",),
    "eetq": ("kernels", "accelerate"),
    "hqq": ("hqq",),
    "quanto": ("optimum-quanto",),
    "torchao": ("torchao",),
    "vptq": ("vptq",),
}
_MODULES = {"optimum-quanto": "optimum"}


def check_files(directory: Path, name: str, *, weights: bool = True) -> None:
    """Refuse pointers of Git LFS, and weight indexes that name files outside the directory.

    Args:
        directory: the model's directory.
        name: the model's name in errors.
        weights: whether the files of weights must be there.

    Raises:
        HeadprobeError: there is such a file, or a file of weights is missing.
    """
    shards, whole, index = next(
        (kind for kind in _WEIGHTS if any(directory.glob(kind[0]))), _WEIGHTS[0]
    )
    for pattern in (*_TOKENIZERS, *([shards] if weights else [])):
        for file in sorted(directory.glob(pattern)):
            refuse_pointer(file)
    if not (directory / whole).exists() and (directory / index).exists():
        _check_index(directory / index, name, weights)


def refuse_pointer(file: Path) -> None:
    """Refuse a pointer, the small file that Git LFS leaves in the place of a large one.

    Raises:
        HeadprobeError: the file is a pointer.
    """
    if is_pointer(file):
        raise HeadprobeError(
            f"{file} is a pointer of Git LFS, not the file itself: run `git lfs pull` in "
            f"{file.parent}, or download the model again"
        )


def is_pointer(file: Path) -> bool:
    """Tell whether a file is a pointer, which Git LFS leaves in the place of a large file."""
    if not file.is_file() or file.stat().st_size > _POINTER_BYTES:
        return False
    return file.read_bytes().startswith(_POINTER)


def check_counts(raw: Mapping[str, Any], name: str) -> None:
    """Refuse a configuration with more layers or experts than any model has.

    Raises:
        HeadprobeError: some count is too large, or the configuration names weights elsewhere.
    """
    for key, value in _entries(raw):
        for pattern, most in ((_LAYERS, _MOST_LAYERS), (_EXPERTS, _MOST_EXPERTS)):
            if isinstance(value, int) and value > most and pattern.fullmatch(key):
                raise HeadprobeError(
                    f"the config.json of {name} gives {key[:80]} {_count(value)}; {most:,} are the "
                    "most that are read: look at it"
                )
    weights = raw.get("transformers_weights")
    if isinstance(weights, str) and not _is_plain(weights):
        raise HeadprobeError(f"the config.json of {name} names weights elsewhere: {weights[:80]!r}")


def check_sizes(shapes: PreTrainedModel, held: int, name: str, *, quantized: bool) -> None:
    """Refuse a configuration that describes far more numbers than the weight files hold.

    Args:
        shapes: the model that the configuration describes, with shapes but no numbers.
        held: the count of numbers that the files hold.
        name: the model's name in errors.
        quantized: whether a number in the files holds several weights.

    Raises:
        HeadprobeError: the configuration describes far more numbers.
    """
    described = sum(part.numel() for part in shapes.parameters())
    described += sum(part.numel() for part in shapes.buffers())
    if described > held * (_PACKED if quantized else _UNTIED) + _SPARE:
        raise HeadprobeError(
            f"the config.json of {name} describes a model of {described:,} numbers, and its weight "
            f"files hold {held:,}: they do not belong together"
        )


def numbers_held(directory: Path, name: str) -> int:
    """Count the numbers that the weight files in a directory hold, at most.

    Raises:
        HeadprobeError: a file cannot be read.
    """
    count = 0
    for file in [*directory.glob("model*.safetensors")] or [*directory.glob("*.safetensors")]:
        with (
            reading(f"the weights of {name} in {file.name}", "download or copy them again"),
            safe_open(file, "pt") as held,
        ):
            count += sum(math.prod(held.get_slice(key).get_shape()) for key in held.keys())  # noqa: SIM118
    return count or sum(file.stat().st_size for file in directory.glob("pytorch_model*.bin"))


def check_quantization(config: Any, name: str) -> bool:
    """Tell whether a checkpoint is quantized, and require the packages that read it.

    Raises:
        HeadprobeError: a package is missing.
    """
    method = _method(config)
    if method is None:
        return False
    needed = _PACKAGES.get(method, ())
    if any(find_spec(_MODULES.get(package, package)) is None for package in needed):
        raise HeadprobeError(
            f"{name} is quantized with {method}, and a package that reads it is missing: "
            f"pip install {' '.join(needed)}, or give weights that are not quantized"
        )
    return True


def _method(config: Any) -> str | None:
    """Return the method of quantization that a configuration names, if any."""
    quantization = getattr(config, "quantization_config", None)
    if quantization is None:
        return None
    given = quantization if isinstance(quantization, Mapping) else vars(quantization)
    method = given.get("quant_method")
    if method is None and any(str(key).startswith("load_in_") for key in given):
        return "bitsandbytes"
    return str(getattr(method, "value", method))[:40]


def _check_index(index: Path, name: str, weights: bool) -> None:
    advice = "download the model again"
    with reading(f"{index.name} of {name}", advice):
        if index.stat().st_size > _LONGEST_JSON:
            raise ValueError(f"it is longer than {_LONGEST_JSON:,} bytes")
        content = json.loads(index.read_text())
        weight_map = content.get("weight_map") if isinstance(content, dict) else None
        if not isinstance(weight_map, dict):
            raise ValueError("it has no weight_map")
        files = sorted(set(weight_map.values()))
        odd = [file for file in files if not isinstance(file, str) or not _is_plain(file)]
        if odd:
            raise ValueError(f"it names a file elsewhere, {str(odd[0])[:80]!r}")
    missing = [file for file in files if not (index.parent / file).exists()]
    if missing and weights:
        raise HeadprobeError(
            f"{name} lacks {missing[0]}, one of its {len(files)} files of weights: {advice}"
        )


def _is_plain(file: str) -> bool:
    """Tell whether ``file`` is a plain file name, without a path."""
    return file not in ("", ".", "..") and not set(file) & set("/\\\0:")


def _entries(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield all keys of JSON objects, at any depth, with their values."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key), inner
            yield from _entries(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _entries(inner)


def _count(value: int) -> str:
    return f"{value:,}" if value < 10**15 else f"of {value.bit_length()} bits"

"""Read files of other programs: a missing, cut or foreign file gives an error of one clear line."""

from __future__ import annotations

import itertools
import json
import pickle
import warnings
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from jaxtyping import Float

from headprobe.errors import HeadprobeError, UsageError
from headprobe.files import atomic_write
from headprobe.inputs.printable import brief
from headprobe.inputs.strict_json import json_documents

# Layers, heads a layer, and heads in all: beyond this a file is damaged, not large.
_MOST, _MOST_HEADS = 1000, 32_768
_MOST_BYTES, _MOST_PT_BYTES = 256_000_000, 4_000_000
_MOST_DOCUMENTS = 10_000
_MOST_DETAILS = 100_000


@dataclass(frozen=True, eq=False, kw_only=True)
class Table:
    """Numbers of heads as a file holds them: for each measure a matrix a case (float64).

    ``details`` holds what else the file says, ``notes`` what its user should know. A file may tell
    more: facts of its ``model``, called as in ``KnownModel``; the ``files`` that it consists of,
    where it is a directory; and of a run its ``task``, its ``plan``, the needle of every case, and
    the means.
    """

    per_case: dict[str, Float[np.ndarray, "case layer head"]]
    details: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    model: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    task: str | None = None
    plan: Mapping[str, Any] = field(default_factory=dict)
    needles: tuple[int, ...] | None = None
    means: Mapping[str, Float[np.ndarray, "layer head"]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for measure, scores in self.per_case.items():
            check_size(*scores.shape[1:])
            wrong = np.argwhere(~(np.abs(scores) <= np.finfo(np.float32).max))
            if wrong.size:
                case, layer, head = wrong[0]
                raise ValueError(
                    f"layer {layer}, head {head} of {measure}: expected finite float32 numbers, "
                    f"got {scores[case, layer, head]}"
                )
        try:
            size = len(json.dumps(self.details, allow_nan=False))
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        if size > _MOST_DETAILS:
            raise ValueError(f"beside the scores it says {size:,} characters of other things")

    @property
    def cases(self) -> int:
        """The number of cases of every measure."""
        return len(next(iter(self.per_case.values())))

    @property
    def shape(self) -> tuple[int, int]:
        """The number of layers, and of heads a layer."""
        _, layers, heads = next(iter(self.per_case.values())).shape
        return layers, heads


def read_text(path: Path, *, most_bytes: int = _MOST_BYTES) -> str:
    """Read the text of a file.

    Raises:
        UsageError: there is no such file.
        HeadprobeError: it cannot be read.
        ValueError: it is no text, or too large.
    """
    _require_file(path, most_bytes)
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise HeadprobeError(f"cannot read {path}: {error.strerror}", path=path) from error
    except UnicodeDecodeError:
        raise ValueError("it is no UTF-8 text") from None


def _require_file(path: Path, most_bytes: int) -> None:
    if not path.is_file():
        raise UsageError(f"no file at {path}", path=path)
    if path.stat().st_size > most_bytes:
        size = path.stat().st_size
        raise ValueError(f"it has {size:,} bytes, a table of heads {most_bytes:,} at most")


def read_json(path: Path) -> Any:
    """Read the one JSON document in a file.

    Raises:
        UsageError: there is no such file.
        HeadprobeError: it cannot be read.
        ValueError: it is no JSON, empty, or more than one document; an object has a key twice.
    """
    documents = read_documents(path)
    if len(documents) > 1:
        raise ValueError(f"it holds {len(documents)} JSON documents, expected one")
    return documents[0]


def read_documents(path: Path) -> list[Any]:
    """Read the JSON documents that follow one another in a file.

    Raises:
        UsageError: there is no such file.
        HeadprobeError: it cannot be read.
        ValueError: it is no JSON, or empty; an object has a key twice.
    """
    text = read_text(path)
    if not text.strip():
        raise ValueError("it is empty")
    documents = list(itertools.islice(json_documents(text), _MOST_DOCUMENTS + 1))
    if len(documents) > _MOST_DOCUMENTS:
        raise ValueError(f"it holds more than {_MOST_DOCUMENTS:,} JSON documents")
    return documents


def numbers(values: list[Any]) -> list[float]:
    """Turn JSON numbers into floats; raise ``ValueError`` for anything else."""
    for value in values:
        if type(value) not in (int, float):
            raise ValueError(f"expected a number, got {brief(value)}")
    try:
        return [float(value) for value in values]
    except OverflowError:
        raise ValueError("expected a number, got one that is too large") from None


def parse_number(cell: str) -> float:
    """Read a number in the cell of a table; ``ValueError`` where there is none."""
    # Python also takes 1_0 and the digits of other scripts, which no program writes.
    if not cell.isascii() or "_" in cell:
        raise ValueError(f"expected a number, got {brief(cell)}")
    try:
        return float(cell)
    except ValueError:
        raise ValueError(f"expected a number, got {brief(cell)}") from None


def table_size(
    named: Collection[tuple[int, int]], *, layers: int | None, heads: int | None
) -> tuple[int, int]:
    """Return the number of layers and of heads a layer of a file that names its heads.

    Sizes that are known count, else the highest layer and head that the file names.

    Raises:
        ValueError: the file names no head, or one beyond the known size.
    """
    if not named:
        raise ValueError("it names no head")
    last_layer, last_head = (max(numbers) for numbers in zip(*named, strict=True))
    if last_layer >= (layers or _MOST) or last_head >= (heads or _MOST):
        raise ValueError(
            f"it names layer {brief(last_layer)} and head {brief(last_head)}; expected "
            f"{layers or _MOST} layers of {heads or _MOST} heads at most"
        )
    layers, heads = layers or last_layer + 1, heads or last_head + 1
    check_size(layers, heads)
    return layers, heads


def check_size(layers: int, heads: int) -> None:
    """Refuse a number of heads that no model has; it would take more memory than there is."""
    if layers * heads > _MOST_HEADS:
        raise ValueError(f"{layers} layers of {heads} heads; {_MOST_HEADS:,} heads are the most")


def layers_note(layers: int | None, found: int, what: str) -> tuple[str, ...]:
    """Say that nothing tells how many layers a table should have, so that a cut would not show."""
    if layers is not None:
        return ()
    return (
        f"nothing says how many layers the model has: took the {found} of the {what}; give "
        "`layers` or `model` to have it checked",
    )


def save_pt(content: Any, path: Path) -> None:
    """Write a ``.pt`` file, whole or not at all: plain types, and arrays as tensors."""
    import torch

    def tensors(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: tensors(value) for name, value in part.items()}
        return torch.tensor(part) if isinstance(part, np.ndarray) else part

    # Saved to a path, the file would hold the temporary file's name.
    buffer = BytesIO()
    torch.save(tensors(content), buffer)
    with atomic_write(path) as whole:
        whole.write_bytes(buffer.getvalue())


def load_pt(path: Path) -> Any:
    """Load a ``.pt`` file without running code of it; a tensor comes as a float64 array.

    Raises:
        UsageError: there is no such file.
        ValueError: it is damaged, too large, or holds more than tensors of real numbers and plain
            types.
    """
    _require_file(path, _MOST_PT_BYTES)
    _require_small_archive(path)
    content = _unpickle(path)
    if not hasattr(content, "is_complex") or content.is_complex():
        return content
    # A tensor of one number may claim any shape.
    if content.numel() > _MOST_HEADS:
        raise ValueError(f"it holds {content.numel():,} numbers, {_MOST_HEADS:,} are the most")
    with _damage_as_value_error():
        return content.detach().double().numpy()


def _unpickle(path: Path) -> Any:
    import torch

    with warnings.catch_warnings(action="ignore"), _damage_as_value_error():
        return torch.load(path, map_location="cpu", weights_only=True)


@contextmanager
def _damage_as_value_error() -> Iterator[None]:
    try:
        yield
    except pickle.UnpicklingError:
        raise ValueError(
            "it is damaged, or holds other than tensors and plain types: such a file could run "
            "code, so it is not opened"
        ) from None
    # Cut or altered bytes make an unpickler raise anything.
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
        reason = shorten(first, 100, placeholder=" ...") if " " in first[:100] else first[:100]
        raise ValueError(f"it is damaged or no .pt file ({reason})") from None


def _require_small_archive(path: Path) -> None:
    """Refuse an archive that unpacks into far more than it takes on disk."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    # An older file is no archive, and torch says of a damaged one what is wrong.
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError):
        return
    if size > _MOST_PT_BYTES:
        raise ValueError(f"it unpacks into {size:,} bytes, {_MOST_PT_BYTES:,} are the most")

"""Read files of other programs: a missing, cut or foreign file gives an error of one clear line."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
from jaxtyping import Float

from headprobe.errors import HeadprobeError, UsageError
from headprobe.files import atomic_write

# Layers, and heads a layer: beyond this a file is damaged, not large.
_MOST = 1000


@dataclass(frozen=True, eq=False, kw_only=True)
class Table:
    """Numbers of heads as a file holds them: for each measure a matrix a case (float64).

    ``details`` holds what else the file says, ``notes`` what its user should know.
    """

    per_case: dict[str, Float[np.ndarray, "case layer head"]]
    details: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for measure, scores in self.per_case.items():
            wrong = np.argwhere(~(np.abs(scores) <= np.finfo(np.float32).max))
            if wrong.size:
                case, layer, head = wrong[0]
                raise ValueError(
                    f"layer {layer}, head {head} of {measure}: expected finite float32 numbers, "
                    f"got {scores[case, layer, head]}"
                )

    @property
    def cases(self) -> int:
        """The number of cases of every measure."""
        return len(next(iter(self.per_case.values())))

    @property
    def shape(self) -> tuple[int, int]:
        """The number of layers, and of heads a layer."""
        _, layers, heads = next(iter(self.per_case.values())).shape
        return layers, heads


def read_text(path: Path) -> str:
    """Read the text of a file.

    Raises:
        UsageError: there is no such file.
        HeadprobeError: it cannot be read.
        ValueError: it is no text.
    """
    if not path.is_file():
        raise UsageError(f"no file at {path}", path=path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise HeadprobeError(f"cannot read {path}: {error.strerror}", path=path) from error
    except UnicodeDecodeError:
        raise ValueError("it is no UTF-8 text") from None


def read_json(path: Path) -> list[Any]:
    """Read the JSON documents that follow one another in a file, mostly one.

    Raises:
        UsageError: there is no such file.
        HeadprobeError: it cannot be read.
        ValueError: it is no JSON, or empty.
    """
    return list(_documents(read_text(path)))


def _documents(text: str) -> Iterator[Any]:
    decoder = json.JSONDecoder()
    rest = text.strip()
    if not rest:
        raise ValueError("it is empty")
    while rest:
        try:
            document, end = decoder.raw_decode(rest)
        except json.JSONDecodeError as error:
            raise ValueError(f"it is no JSON, or cut short ({error})") from None
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        yield document
        rest = rest[end:].lstrip()


def numbers(values: list[Any]) -> list[float]:
    """Turn JSON numbers into floats; raise ``ValueError`` for anything else."""
    for value in values:
        if type(value) not in (int, float):
            raise ValueError(f"expected a number, got {json.dumps(value)[:60]}")
    try:
        return [float(value) for value in values]
    except OverflowError:
        raise ValueError("expected a number, got one that is too large") from None


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
    last_layer, last_head = np.array(list(named)).max(axis=0).tolist()
    if last_layer >= (layers or _MOST) or last_head >= (heads or _MOST):
        raise ValueError(
            f"it names layer {last_layer} and head {last_head}; expected {layers or _MOST} layers "
            f"of {heads or _MOST} heads at most"
        )
    return layers or last_layer + 1, heads or last_head + 1


def save_pt(content: Any, path: Path) -> None:
    """Write a ``.pt`` file, whole or not at all: plain types, or an array as a tensor."""
    import torch

    # Saved to a path, the file would hold the temporary file's name.
    buffer = BytesIO()
    torch.save(torch.from_numpy(content) if isinstance(content, np.ndarray) else content, buffer)
    with atomic_write(path) as whole:
        whole.write_bytes(buffer.getvalue())


def load_pt(path: Path) -> Any:
    """Load a ``.pt`` file without running code of it; a tensor comes as a float64 array.

    Raises:
        UsageError: there is no such file.
        ValueError: it is damaged, or holds more than tensors of real numbers and plain types.
    """
    import torch

    if not path.is_file():
        raise UsageError(f"no file at {path}", path=path)
    try:
        with warnings.catch_warnings(action="ignore"):
            content = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(content, torch.Tensor) and not content.is_complex():
            return content.detach().to(torch.float64).numpy()
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
    return content

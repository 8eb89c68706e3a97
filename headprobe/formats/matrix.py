"""A matrix of scores, a row a layer and a column a query head: ``.npy``, or lists in ``.json``."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from jaxtyping import Float

from headprobe.errors import UsageError
from headprobe.formats._files import Table, check_size, layers_note, numbers, read_json
from headprobe.formats._format import Format
from headprobe.inputs.printable import brief
from headprobe.models.reading import first_line

_MAGIC = b"\x93NUMPY"


def read(path: Path, *, layers: int | None, heads: int | None) -> Table:
    """Read the matrix of an ``.npy`` or a JSON file.

    Raises:
        UsageError: there is no such file, or it is called otherwise.
        ValueError: it is damaged, or no matrix of real numbers.
    """
    if not path.is_file():
        raise UsageError(f"no file at {path}", path=path)
    suffix = path.suffix.casefold()
    if suffix not in (".npy", ".json"):
        raise UsageError(f"a matrix is an .npy or a .json file; {path.name} is neither", path=path)
    matrix = _load(path) if suffix == ".npy" else _of_lists(read_json(path))
    return Table(
        per_case={"matrix": matrix[None]},
        notes=layers_note(layers, len(matrix), "rows") if suffix == ".json" else (),
    )


def _load(path: Path) -> Float[np.ndarray, "layer head"]:
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError("it is no .npy file")
    try:
        # Mapped, so that a shape that the file does not hold takes no memory.
        with warnings.catch_warnings(action="ignore"):
            found = np.load(path, mmap_mode="r", allow_pickle=False)
    # Altered bytes of a header make its parser raise anything.
    except Exception as error:
        raise ValueError(f"it is a damaged .npy file ({first_line(error)})") from None
    if found.ndim != 2 or not found.size:
        raise ValueError(f"expected a matrix of layers and query heads, got {found.shape}")
    if found.dtype.kind not in "biuf":
        raise ValueError(f"expected real numbers, got {brief(found.dtype)}")
    check_size(*found.shape)
    matrix: Float[np.ndarray, "layer head"] = np.array(found, dtype=np.float64)
    return matrix


def _of_lists(rows: object) -> Float[np.ndarray, "layer head"]:
    if not isinstance(rows, list) or not all(isinstance(row, list) and row for row in rows):
        raise ValueError(f"expected a list of rows, a list of numbers each, got {brief(rows)}")
    widths = sorted({len(row) for row in rows})
    if len(widths) != 1:
        raise ValueError(f"expected rows of as many numbers each, got {widths[:2] or 'none'}")
    return np.array([numbers(row) for row in rows])


FORMAT = Format(
    summary="a matrix of scores, a row a layer",
    file=".npy or .json",
    programs="numpy, notebooks",
    granularity="query",
    read=read,
)

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headprobe.errors import HeadprobeError, UsageError
from headprobe.formats.import_run import KnownModel, import_run

SCORES = np.random.default_rng(0).random((3, 8))


def write(path: Path, matrix: Any) -> Path:
    if path.suffix == ".npy":
        np.save(path, matrix, allow_pickle=True)
    else:
        content = matrix if isinstance(matrix, str) else json.dumps(np.asarray(matrix).tolist())
        path.write_text(content)
    return path


@pytest.mark.parametrize("name", ["heads.npy", "heads.json"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.int8, ">f4"])
def test_a_matrix_is_read_as_it_is(tmp_path: Path, name: str, dtype: Any) -> None:
    scores = np.asfortranarray((10 * SCORES).astype(dtype))
    known = KnownModel(kv_heads=2, layers=3)
    path = write(tmp_path / name, scores)
    run, notes = import_run(path, tmp_path / "run", source="matrix", known=known)
    np.testing.assert_array_equal(run.mean("matrix"), scores.astype(np.float32))
    assert (run.layout.num_kv_heads, notes) == (2, ())


def test_a_table_whose_layers_nothing_tells_says_how_many_it_took(tmp_path: Path) -> None:
    path = write(tmp_path / "heads.json", SCORES)
    _, notes = import_run(path, tmp_path / "run", source="matrix", known=KnownModel(kv_heads=8))
    assert "took the 3 of the rows" in notes[0]
    with pytest.raises(UsageError, match=r"`layers=4`: .*holds 3 layers of 8 query heads"):
        import_run(path, tmp_path / "run", source="matrix", known=KnownModel(layers=4))


@pytest.mark.parametrize(
    ("matrix", "problem"),
    [
        (SCORES[None], "expected a matrix of layers and query heads, got (1, 3, 8)"),
        (SCORES[:0], "expected a matrix of layers and query heads, got (0, 8)"),
        (SCORES.astype(complex), "expected real numbers"),
        (SCORES.astype("U5"), "expected real numbers"),
        (np.array([[{}]]), "damaged .npy file"),
        (np.full((2, 2), np.nan), "layer 0, head 0 of matrix: expected finite"),
        (np.zeros((40_000, 1)), "40000 layers of 1 heads"),
        (np.full((2, 2), 1e300), "expected finite float32 numbers"),
    ],
)
def test_an_array_that_is_no_matrix_of_scores_is_refused(
    tmp_path: Path, matrix: Any, problem: str
) -> None:
    with pytest.raises(HeadprobeError, match="not a valid matrix file") as error:
        import_run(write(tmp_path / "heads.npy", matrix), tmp_path / "run", source="matrix")
    assert problem in str(error.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[1, 2], [3]]", "expected rows of as many numbers each"),
        ("[[1, true]]", "expected a number, got True"),
        ("[[1, NaN]]", "expected finite float32 numbers"),
        ("[[]]", "expected a list of rows"),
        ("[]", "expected rows of as many"),
        ("[1, 2]", "expected a list of rows"),
        ("{}", "expected a list of rows"),
        ("[[1]] [[2]]", "it holds 2 JSON documents"),
        ("[[1], [2]", "not JSON, or cut short"),
    ],
)
def test_json_that_is_no_matrix_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(HeadprobeError, match="not a valid matrix file") as error:
        import_run(write(tmp_path / "heads.json", text), tmp_path / "run", source="matrix")
    assert problem in str(error.value)


def test_a_shape_that_the_file_does_not_hold_takes_no_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "heads.npy", SCORES)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"'shape': (3, 8)", b"'shape': (9999999, 9999999)"))
    with pytest.raises(HeadprobeError, match=r"damaged \.npy file"):
        import_run(path, tmp_path / "run", source="matrix")
    path.write_bytes(content[:-8])
    with pytest.raises(HeadprobeError, match=r"damaged \.npy file"):
        import_run(path, tmp_path / "run", source="matrix")
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(HeadprobeError, match=r"it is no \.npy file"):
        import_run(path, tmp_path / "run", source="matrix")
    with pytest.raises(UsageError, match=r"heads\.csv is neither"):
        import_run(write(tmp_path / "heads.csv", "1"), tmp_path / "run", source="matrix")

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headprobe.report.packing import MOST_CHARACTERS, clean, pack, pack_json, rounded, unpack


@pytest.mark.parametrize("kind", ["uint8", "uint16", "uint32"])
def test_an_array_comes_back(kind: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(kind)
    record = json.loads(json.dumps({"here": [pack(array)]}))
    assert unpack(record) == {"here": [array.tolist()]}


def test_packed_json_comes_back() -> None:
    value = {"texts": ["a", "林\n"], "none": None}
    assert unpack(pack_json(value)) == value


@pytest.mark.parametrize(
    "packed",
    [
        {"type": "uint8", "shape": [1], "deflate": "no base64!"},
        {"type": "uint8", "shape": [1], "deflate": "AAAA"},
        {"type": "float", "shape": [1], "deflate": pack_json(1)["deflate"]},
        {"deflate": 3},
    ],
)
def test_damage_is_a_value_error(packed: object) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - some are numpy's or the library's own
        unpack(packed)


@given(st.recursive(st.text() | st.floats() | st.none(), st.lists))
def test_what_is_clean_can_be_written_as_utf8_json(value: object) -> None:
    json.dumps(clean(value), allow_nan=False).encode()


def test_long_texts_lose_their_middle_and_names_too() -> None:
    (name, text), *_ = clean({"n" * 10**6: "t" * 10**6}).items()
    assert len(name) == len(text) == MOST_CHARACTERS + 3


def test_halves_of_surrogate_pairs_become_question_marks() -> None:
    assert clean("run-\udcff") == "run-?"


def test_numbers_keep_their_leading_digits() -> None:
    assert rounded(np.array([[1.23456, 0.000123456], [-12345.6, 0.0]])) == [
        [1.235, 0.0001235],
        [-12350.0, 0.0],
    ]

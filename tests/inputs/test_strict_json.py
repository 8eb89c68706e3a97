from __future__ import annotations

from typing import Any

import pytest

from headprobe.inputs.strict_json import check_leaves, json_documents, parse_json


def test_json_is_one_document_with_each_key_once() -> None:
    assert parse_json(' {"a": [1, 2.5, null]}\n') == {"a": [1, 2.5, None]}
    assert list(json_documents('{"a": 1}\n{"a": 2} 3')) == [{"a": 1}, {"a": 2}, 3]
    for text, problem in [
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "key 'c' is given twice"),
        ("1 2", "more than one document"),
        ("1 null", "more than one document"),
        ("", "not JSON, or cut short"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ("9" * 500, "a number of 500 digits"),
        ("[1,\u00a02]", "not JSON, or cut short"),
    ]:
        with pytest.raises(ValueError, match=problem):
            parse_json(text)


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"a": [0, float("nan")]}, r"a\[1\]: expected a finite number, got nan"),
        ({"a": {"b": -float("inf")}}, r"a\.b: expected a finite number, got -inf"),
        ({"a": 2**64}, "a: expected a number of 64 bits"),
        ([{"a": "\ud83d"}], r"\[0\]\.a has half a surrogate pair"),
        ({"\udc80": 1}, "a field's name has half a surrogate pair"),
    ],
)
def test_leaves_that_others_cannot_read_are_named(document: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        check_leaves(document)
    check_leaves({"a": [1, 2.5, None, True, "白鹭", 2**63 - 1]})

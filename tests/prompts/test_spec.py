from pathlib import Path
from typing import Any

import pytest

from headprobe.prompts.spec import CaseSpec


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"lengths": ()}, "expected ascending lengths"),
        ({"lengths": (200, 100)}, "expected ascending lengths"),
        ({"lengths": (0, 100)}, "expected lengths of 1 or more, got 0"),
        ({"depths": (50.0, 50.0)}, "expected ascending depths"),
        ({"depths": (-1.0, 50.0)}, "expected depths from 0 to 100"),
        ({"depths": (0.0, 101.0)}, "expected depths from 0 to 100"),
        ({"limit": 0}, "expected a limit of 1 or more, got 0"),
    ],
)
def test_what_no_case_can_have_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CaseSpec(**fields)


def test_equal_fields_are_equal_specs() -> None:
    fields: dict[str, Any] = {"lengths": (100, 200), "needles": Path("own.jsonl"), "seed": 3}
    assert CaseSpec(**fields) == CaseSpec(**fields)
    assert CaseSpec(**fields) != CaseSpec(**fields, limit=None)

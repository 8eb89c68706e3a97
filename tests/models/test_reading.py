from __future__ import annotations

import pytest
import torch

from headprobe.errors import HeadprobeError, UsageError
from headprobe.models.reading import first_line, reading


class PanicException(BaseException):
    """As Rust code raises it."""


def read(error: BaseException) -> None:
    with reading("the tokenizer of x", "save it again"):
        raise error


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ZeroDivisionError("division by zero"), "ZeroDivisionError: division by zero"),
        (KeyError("rope"), "KeyError: 'rope'"),
        (RecursionError(), "RecursionError"),
        (OSError("no\n such file"), "no"),
        (ValueError("\n\n  too\x1b[31m far.  \nmore"), "too [31m far"),
        (PanicException("index out of bounds"), "PanicException: index out of bounds"),
        (ValueError("x" * 1000), "x" * 200),
    ],
)
def test_whatever_is_raised_becomes_one_line(error: BaseException, line: str) -> None:
    with pytest.raises(HeadprobeError) as found:
        read(error)
    assert str(found.value) == f"cannot read the tokenizer of x: {line}; save it again"
    assert first_line(error) == line


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), UsageError("told"), torch.OutOfMemoryError("full")]
)
def test_what_others_must_know_passes_through(error: BaseException) -> None:
    with pytest.raises(type(error)) as found:
        read(error)
    assert found.value is error


def test_a_bug_of_this_package_is_no_fault_of_the_file() -> None:
    lines = "def of_a_file(): {}['rope']\n"
    ours, theirs = {"__name__": "headprobe.models.x"}, {"__name__": "transformers.x"}
    for names in (ours, theirs):
        exec(lines, names)
    with pytest.raises(KeyError, match="rope"), reading("the tokenizer of x", "save it again"):
        ours["of_a_file"]()
    with pytest.raises(HeadprobeError), reading("the tokenizer of x", "save it again"):
        theirs["of_a_file"]()

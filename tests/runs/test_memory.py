from __future__ import annotations

import pytest

from headprobe.runs.memory import byte_size, parse_bytes
from tests._support.refusals import refused


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("1GiB", "1 GiB"),
        ("2G", "2 GiB"),
        ("2gb", "2 GiB"),
        ("512 MiB", "512 MiB"),
        ("1.5T", "1.5 TiB"),
        ("1536k", "1.5 MiB"),
        ("1000", "1000 B"),
    ],
)
def test_an_amount_of_memory_is_shown_back_in_the_unit_that_was_given(
    text: str, shown: str
) -> None:
    assert byte_size(parse_bytes(text)) == shown


@pytest.mark.parametrize("text", ["", "lots", "0", "0GiB", "-1G", "1 giga", "1e9", "1XB"])
def test_what_is_no_amount_of_memory_is_refused(text: str) -> None:
    with refused("as in 1GiB or 512MiB", option="activation_memory", value=text):
        parse_bytes(text)

"""Errors by their class and their facts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from headprobe.errors import HeadprobeError, UsageError


def facts(error: HeadprobeError) -> dict[str, Any]:
    """What an error carries: of option, value and path those that there are."""
    found = {"option": error.option, "value": error.value, "path": error.path}
    return {name: fact for name, fact in found.items() if fact is not None}


@contextmanager
def refused(
    message: str = "", *, kind: type[HeadprobeError] = UsageError, **wanted: Any
) -> Iterator[None]:
    """Expect an error of this very class that carries the facts, and no other option or value.

    ``message`` is a pattern that its text without the facts has.
    """
    with pytest.raises(kind) as caught:
        yield
    error = caught.value
    assert type(error) is kind
    found = facts(error)
    assert {name: found.get(name) for name in wanted} == wanted
    assert found.get("option") == wanted.get("option")
    assert re.search(message, error.message), error.message

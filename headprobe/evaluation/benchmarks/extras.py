"""Packages that only some metrics and tasks need, installed as extras."""

from __future__ import annotations

import warnings
from importlib import import_module
from typing import Any

from headprobe.errors import HeadprobeError


def require(package: str, *, extra: str, why: str) -> Any:
    """Import an optional package.

    Raises:
        HeadprobeError: it is not installed; the message names the extra.
    """
    try:
        with warnings.catch_warnings():
            # What an older package says of the Python or the libraries that it meets.
            warnings.simplefilter("ignore")
            return import_module(package)
    except ImportError:
        message = f"{why} needs {package}: pip install 'headprobe[{extra}]'"
        raise HeadprobeError(message) from None

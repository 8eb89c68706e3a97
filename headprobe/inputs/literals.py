"""Read Python literals: bounded in size, and nothing that runs."""

from __future__ import annotations

import ast
import warnings
from typing import Any

from headprobe.errors import excerpt
from headprobe.inputs.fields import LONGEST_TEXT


def parse_literal(text: str, *, unique_keys: bool = True) -> Any:
    """Parse one Python literal, in which no dictionary gives a key twice if keys are unique.

    Raises:
        ValueError: the text is none, is too long, or gives a key twice; the message goes on after
            "it is".
    """
    if len(text) > LONGEST_TEXT:
        raise ValueError(f"of {len(text):,} characters, {LONGEST_TEXT:,} at most")
    try:
        with warnings.catch_warnings(action="ignore", category=SyntaxWarning):
            tree = ast.parse(text.strip(), mode="eval")
            content = ast.literal_eval(tree)
    except (SyntaxError, TypeError, ValueError, MemoryError, RecursionError) as error:
        reason = excerpt(" ".join(str(error).split())) or type(error).__name__
        raise ValueError(f"no Python literal, or cut short ({reason})") from None
    for node in ast.walk(tree):
        if not (unique_keys and isinstance(node, ast.Dict)):
            continue
        keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
        if len(set(keys)) < len(keys):
            raise ValueError("no plain Python literal: a key is given twice")
    return content

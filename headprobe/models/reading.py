"""Turn exceptions of other libraries while they read a model into one-line errors."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from headprobe.errors import HeadprobeError

_LONGEST = 200
# Exceptions whose messages are sentences; other messages name a key or a type and little else.
_SPEAKING = (OSError, ValueError, RuntimeError, ImportError)
# Names of exceptions: the one that the Rust code of tokenizers and safetensors raises when it gives
# up (no Exception), and torch's for a full device (torch itself is imported where models run).
_PANIC = "PanicException"
_FULL = "OutOfMemoryError"
_OF_BUGS = (AttributeError, LookupError, NameError)


@contextmanager
def reading(what: str, advice: str) -> Iterator[None]:
    """Turn any exception that transformers raises over unusable files into a one-line error.

    The content of a file decides which exception is raised (a division by zero, a missing key, a
    list that nests too deep), so all are caught except those that stop the program, say that a
    device is out of memory, or are bugs: a line of this package that asks for what is not there.

    Args:
        what: names the model and the file in the error.
        advice: says in the error what to do about the file.

    Raises:
        HeadprobeError: an exception was raised inside the block.
    """
    try:
        yield
    except HeadprobeError:
        raise
    except BaseException as error:
        kind = type(error).__name__
        if kind == _FULL or not (isinstance(error, Exception) or kind == _PANIC) or _is_bug(error):
            raise
        raise HeadprobeError(f"cannot read {what}: {first_line(error)}; {advice}") from error


def _is_bug(error: BaseException) -> bool:
    """Tell whether a line of this package, not of a library, lacks an attribute, name or key."""
    if not isinstance(error, _OF_BUGS):
        return False
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).startswith("headprobe.")


def first_line(error: BaseException) -> str:
    """Shorten an exception's message to one printable line."""
    lines = [line for line in map(str.strip, str(error).splitlines()) if line]
    text = lines[0] if lines else ""
    if not text or not isinstance(error, _SPEAKING):
        text = f"{type(error).__name__}: {text}".rstrip(" :")
    return "".join(sign if sign.isprintable() else " " for sign in text).rstrip(" .:;")[:_LONGEST]

"""What other people's code raises while it reads a model, brought to one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from headprobe.errors import HeadprobeError

_LONGEST = 200
# Their messages are sentences; those of others name a key or a type and little else.
_SPEAKING = (OSError, ValueError, RuntimeError, ImportError)
# What the Rust code of tokenizers and safetensors raises where it gives up (no Exception), and
# torch where a device is full. By name, for torch stays where the model runs.
_PANIC = "PanicException"
_FULL = "OutOfMemoryError"


@contextmanager
def reading(what: str, advice: str) -> Iterator[None]:
    """Turn whatever transformers raises over unusable files into one line.

    ``what`` names the model and the file, ``advice`` says what to do with it. Files decide what is
    raised here (a zero is divided by, a key is missing, a list nests too deep), so all of it is
    caught but what stops the program, and memory that a device lacks.

    Raises:
        HeadprobeError: something was raised.
    """
    try:
        yield
    except HeadprobeError:
        raise
    except BaseException as error:
        kind = type(error).__name__
        if kind == _FULL or not (isinstance(error, Exception) or kind == _PANIC):
            raise
        raise HeadprobeError(f"cannot read {what}: {first_line(error)}; {advice}") from error


def first_line(error: BaseException) -> str:
    """The start of an exception's message, fit for one line."""
    lines = [line for line in map(str.strip, str(error).splitlines()) if line]
    text = lines[0] if lines else ""
    if not text or not isinstance(error, _SPEAKING):
        text = f"{type(error).__name__}: {text}".rstrip(" :")
    return "".join(sign if sign.isprintable() else " " for sign in text).rstrip(" .:;")[:_LONGEST]

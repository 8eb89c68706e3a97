"""What other people's code says and raises while it reads a model, brought to one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers.utils import logging

from headprobe.errors import HeadprobeError

_LONGEST = 200
# Their messages are sentences; those of others name a key or a type and little else.
_SPEAKING = (OSError, ValueError, RuntimeError, ImportError)
# What the Rust code of tokenizers and safetensors raises where it gives up: no Exception.
_PANIC = "PanicException"


@contextmanager
def reading(what: str, advice: str) -> Iterator[None]:
    """Turn whatever transformers raises over unusable files into one line.

    ``what`` names the model and the file, ``advice`` says what to do with it. Files decide what is
    raised here (a zero is divided by, a key is missing, a list nests too deep), so all of it is
    caught but memory that a device lacks and what stops the program.

    Raises:
        HeadprobeError: something was raised.
    """
    try:
        yield
    except (HeadprobeError, torch.OutOfMemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != _PANIC:
            raise
        raise HeadprobeError(f"cannot read {what}: {first_line(error)}; {advice}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings and bars of transformers on stderr."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def first_line(error: BaseException) -> str:
    """The start of an exception's message, fit for one line."""
    lines = [line for line in map(str.strip, str(error).splitlines()) if line]
    text = lines[0] if lines else ""
    if not text or not isinstance(error, _SPEAKING):
        text = f"{type(error).__name__}: {text}".rstrip(" :")
    return "".join(sign if sign.isprintable() else " " for sign in text).rstrip(" .:;")[:_LONGEST]

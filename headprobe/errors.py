"""Errors that callers catch; the message of each says what to do next."""

from __future__ import annotations


class HeadprobeError(Exception):
    """A problem met while working that the user or the environment can mend (exit code 1)."""

    exit_code = 1


class UsageError(HeadprobeError):
    """Wrong usage: a bad option or value, or a file that is not there (exit code 2)."""

    exit_code = 2


class Interrupted(HeadprobeError):
    """Stopped by the user; what was done is kept (exit code 130, as shells have it)."""

    exit_code = 130


def out_of_memory(
    error: Exception, *, tokens: int, hint: str = "shorter --lengths"
) -> HeadprobeError:
    """The device's memory is too small for a prompt of so many tokens."""
    return HeadprobeError(
        f"a prompt of {tokens:,} tokens does not fit into the device's memory: try {hint}, "
        f"--dtype bfloat16 or --device-map auto ({str(error).splitlines()[0]})"
    )


class HeadprobeWarning(UserWarning):
    """Something that goes on, otherwise than asked for; shown as one line."""

"""Errors that callers catch: each carries its facts and says what to do next."""

from __future__ import annotations

from pathlib import Path


class HeadprobeError(Exception):
    """A problem that the user can solve, by an option or in the environment (exit code 1).

    Args:
        message: What is wrong and what to do next. Parameters stand in backquotes, as in "try
            shorter `lengths` or `dtype=bfloat16`": the command line shows them as options.
        option: Name of the parameter that is wrong, as in "until_stable".
        value: What that parameter was given.
        path: File or directory that the problem is about.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        option: str | None = None,
        value: object = None,
        path: Path | None = None,
    ) -> None:
        super().__init__(message)
        self.message, self.option, self.value, self.path = message, option, value, path

    def __str__(self) -> str:
        if self.option is None:
            return self.message
        given = "" if self.value is None else f"={self.value}"
        return f"{self.option}{given}: {self.message}"


class UsageError(HeadprobeError):
    """Wrong usage: a bad option or value, or a file that is not there (exit code 2)."""

    exit_code = 2


class Interrupted(HeadprobeError):
    """Stopped by the user; what was done is kept (exit code 130, as shells have it)."""

    exit_code = 130


def out_of_memory(
    error: Exception, *, tokens: int, hint: str = "shorter `lengths`"
) -> HeadprobeError:
    """Say that a prompt of ``tokens`` tokens does not fit into the device's memory."""
    return HeadprobeError(
        f"a prompt of {tokens:,} tokens does not fit into the device's memory: try {hint}, "
        f"`dtype=bfloat16` or `device_map=auto` ({str(error).splitlines()[0]})"
    )


def excerpt(text: str, *, longest: int = 60) -> str:
    """Shorten a text for a message: its first characters, and dots where more follow."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


class HeadprobeWarning(UserWarning):
    """The work goes on, but not exactly as asked for; the command line shows one line."""

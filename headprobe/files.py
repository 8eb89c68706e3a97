"""Write files atomically, read files of lines, and compute digests."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from headprobe.errors import HeadprobeError, UsageError

ADVICE = {
    errno.ENOSPC: "free some disk space, or write elsewhere",
    errno.EDQUOT: "free some of your disk quota, or write elsewhere",
    errno.EACCES: "write where you have permission",
    errno.EPERM: "write where you have permission",
    errno.EROFS: "write to a file system that is not read-only",
}


def numbered_lines(path: Path, *, kind: str) -> list[tuple[int, str]]:
    """Read a file's lines that are not blank, each with its number from 1.

    Args:
        path: a text file in UTF-8.
        kind: the word that errors put before "file", as in "needle".

    Raises:
        UsageError: the file does not exist or cannot be read.
    """
    try:
        # Not splitlines(): JSON may hold U+2028 and its like, which are no line ends there.
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError as error:
        raise UsageError(f"no {kind} file {path}", path=path) from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the {kind} file {path}: {error}", path=path) from error
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def json_object(line: str) -> dict[str, Any]:
    """Read the object in a line of JSONL; ``ValueError`` says what is wrong with the line."""
    try:
        fields = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise ValueError("expected a JSON object")
    return fields


def json_digest(content: Any) -> str:
    """Return a 16-character digest of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_field(fields: Mapping[str, Any], name: str) -> str:
    """Return a field's text, stripped; ``ValueError`` where the field has no text.

    JSON can spell half of a surrogate pair, which is no character: tokenizers fail on it, so that
    it is refused.
    """
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"expected a text in field {name!r}, got {value!r}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        half = value[error.start : error.end]
        raise ValueError(f"field {name!r} has half a surrogate pair, {half!r:.20}") from error
    return value.strip()


def make_directory(path: Path) -> None:
    """Make a directory and its parents where they are missing, and check that it is writable.

    Raises:
        UsageError: ``path`` or one of its parents is not a directory.
        HeadprobeError: permission is lacking, the disk is full or read-only, or the like.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{path} is no directory: give the name of one", path=path) from error
    except OSError as error:
        raise _cannot_write(path, error) from error


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; it becomes ``path`` when the block ends without error.

    The temporary file lies in the same directory and has the same suffix. It is flushed to disk
    before it takes the place of ``path``, so a crash leaves the old file or the new one. After an
    exception the old file is as it was and the temporary one is gone. Missing parent directories
    are made; a symbolic link is followed, not replaced.

    Raises:
        UsageError: ``path`` is a directory or a device.
        HeadprobeError: the disk is full, permission is lacking, or the like.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        kind = "a directory" if target.is_dir() else "not a regular file"
        raise UsageError(f"cannot write {path}: it is {kind}; give the name of a file", path=path)
    temporary = target.with_name(f".{target.stem[:64]}.{secrets.token_hex(4)}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, target)
        _flush_directory(target.parent)
    except OSError as error:
        # Only errors about this file count: the block may read other files.
        if error.filename is None or str(error.filename) == str(temporary):
            raise _cannot_write(path, error) from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink()


def _cannot_write(path: Path, error: OSError) -> HeadprobeError:
    advice = ADVICE.get(error.errno or 0, "write elsewhere")
    return HeadprobeError(f"cannot write {path}: {error.strerror or error}; {advice}", path=path)


def _flush(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _flush_directory(path: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Write files atomically, and compute digests."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from headprobe.errors import HeadprobeError, UsageError

DIGEST_LENGTH = 16
"""Characters of a digest that need only tell the inputs of runs apart."""

ADVICE = {
    errno.ENOSPC: "free some disk space, or write elsewhere",
    errno.EDQUOT: "free some of your disk quota, or write elsewhere",
    errno.EACCES: "write where you have permission",
    errno.EPERM: "write where you have permission",
    errno.EROFS: "write to a file system that is not read-only",
}


def digest(parts: Iterable[bytes]) -> str:
    """Return the SHA-256 of some bytes one after the other, in hexadecimal digits."""
    found = hashlib.sha256()
    for part in parts:
        found.update(part)
    return found.hexdigest()


def file_digest(*paths: Path) -> str:
    """Return the SHA-256 of a file, or of several one after the other."""
    return digest(piece for path in paths for piece in _pieces(path))


def json_digest(content: Any) -> str:
    """Return a 16-character digest of a value that JSON can hold."""
    return digest([json.dumps(content).encode()])[:DIGEST_LENGTH]


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(2**20):
            yield piece


def make_directory(path: Path) -> None:
    """Make a directory and its parents where they are missing, and check that it is writable.

    Raises:
        UsageError: ``path`` or one of its parents is not a directory.
        HeadprobeError: permission is lacking, the disk is full or read-only, or the like.
    """
    _require_text_name(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except (FileExistsError, NotADirectoryError) as error:
        raise _no_directory(path) from error
    except OSError as error:
        raise _cannot_write(path, error) from error


def refuse_file(path: Path) -> None:
    """Refuse the path of a directory to come where a file lies.

    Raises:
        UsageError: a file lies there.
    """
    if os.path.exists(path) and not os.path.isdir(path):
        raise _no_directory(path)


def _no_directory(path: Path) -> UsageError:
    return UsageError(f"{path} is no directory: give the name of one", path=path)


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to; it becomes ``path`` when the block ends without error.

    The temporary file lies in the same directory and has the same suffix. It is flushed to disk
    before it takes the place of ``path``, so a crash leaves the old file or the new one. After an
    exception the old file is as it was and the temporary one is gone. Missing parent directories
    are made; a symbolic link is followed, not replaced; an old file's permissions are kept.

    Raises:
        UsageError: ``path`` is a directory or a device, or its name is not in UTF-8.
        HeadprobeError: the disk is full, permission is lacking, or the like.
    """
    target = _writable_target(path)
    temporary = target.with_name(f".{target.stem[:64]}.{secrets.token_hex(4)}{target.suffix}")
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch(exist_ok=False)
        except OSError as error:
            raise _cannot_write(path, error) from error
        yield temporary
        _flush(temporary)
        if target.exists():
            temporary.chmod(stat.S_IMODE(target.stat().st_mode))
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


def remove_temporaries(directory: Path, names: Iterable[str]) -> None:
    """Remove the temporary files that killed processes left of some files in a locked directory."""
    for path in map(Path, names):
        pattern = f".{glob.escape(path.stem[:64])}.{'[0-9a-f]' * 8}{glob.escape(path.suffix)}"
        for left in directory.glob(pattern):
            left.unlink(missing_ok=True)


def _writable_target(path: Path) -> Path:
    """Return the path that a file is written to, symbolic links followed."""
    _require_text_name(path)
    target = Path(os.path.realpath(path))
    try:
        kind = target.stat().st_mode
    except FileNotFoundError:
        return target
    except OSError as error:
        raise _cannot_write(path, error) from error
    if not stat.S_ISREG(kind):
        what = "a directory" if stat.S_ISDIR(kind) else "not a regular file"
        raise UsageError(f"cannot write {path}: it is {what}; give the name of a file", path=path)
    return target


def _require_text_name(path: Path) -> None:
    # Not every library that writes files takes other names.
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError as error:
        raise UsageError(f"the name {path} is not in UTF-8: give another", path=path) from error


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

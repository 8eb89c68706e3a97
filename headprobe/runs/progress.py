"""Store finished units of work on disk, each as soon as it is done, so that a run can resume.

``progress.sqlite`` holds the plan and a row a unit: a key, a payload and a checksum. A unit is a
case, a question or an answer, the most that ``kill -9`` loses. Keys are digests of all that decides
a unit, so it is found again under any number, order and spelling of a path.
"""

from __future__ import annotations

import json
import sqlite3
import stat
import warnings
from collections.abc import Collection, Iterator, Mapping, Set
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from headprobe.errors import HeadprobeError, HeadprobeWarning, UsageError
from headprobe.files import digest
from headprobe.runs.identity import Plan
from headprobe.runs.payload import Payload, UnreadablePayload

FILE_NAME = "progress.sqlite"

_APPLICATION = int.from_bytes(b"hdpr")
_VERSION = 1
_SCHEMA = (
    "CREATE TABLE plan (identity TEXT NOT NULL, labels TEXT NOT NULL, checksum TEXT NOT NULL)",
    "CREATE TABLE unit (key TEXT NOT NULL, payload BLOB NOT NULL, checksum TEXT NOT NULL)",
)


class Progress:
    """The finished units of one run, locked for this process while it is open."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self._plan = _read_plan(connection)
        self._drift: list[str] = []
        self._keys = self._check_units()

    def close(self) -> None:
        """Close the file and release its lock."""
        self._connection.close()

    @property
    def plan(self) -> Plan | None:
        """The plan of the run that was begun in this file, if any."""
        return self._plan

    @property
    def keys(self) -> Set[str]:
        """The keys of the finished units."""
        return self._keys

    @property
    def drift(self) -> list[str]:
        """The labels that move numbers a little and have changed since the run was begun."""
        return self._drift

    def require_file(self) -> None:
        """Check that the file is still in its directory.

        Raises:
            HeadprobeError: the directory or the file was removed.
        """
        if not self._path.exists():
            raise HeadprobeError(
                f"{self._path} was removed while the run was at work: give the command again",
                path=self._path,
            )

    def units(self) -> Iterator[tuple[str, Payload]]:
        """Yield the finished units in the order in which they were written."""
        rows = self._connection.execute("SELECT key, payload, checksum FROM unit").fetchall()
        for key, data, checksum in rows:
            # Checked again: of a damaged tree, a row that was removed may be found elsewhere.
            payload = _intact_payload(key, data, checksum)
            if payload is not None:
                yield key, payload

    def begin(self, plan: Plan) -> None:
        """Begin a run, or go on with the run begun in this file if its identity is equal.

        Raises:
            UsageError: the identity differs; the message names the options.
        """
        plan = Plan(identity=_as_json(plan.identity), labels=_as_json(plan.labels))
        if self._plan is not None and (changes := self._plan.differences(plan)):
            raise UsageError(
                f"{self._path.parent} holds a run with other options ({'; '.join(changes)}); "
                "give the same options to go on, `overwrite` to start over, or another `out`",
                path=self._path.parent,
            )
        self._drift = [] if self._plan is None else self._plan.drift(plan)
        identity, labels = json.dumps(plan.identity), json.dumps(plan.labels)
        with self._connection as connection:
            connection.execute("DELETE FROM plan")
            connection.execute(
                "INSERT INTO plan VALUES (?, ?, ?)",
                (identity, labels, _checksum(identity.encode(), labels.encode())),
            )
        self._plan = plan

    def add(self, units: Mapping[str, Payload]) -> None:
        """Write units in one transaction; on return they survive a crash."""
        self.require_file()
        rows = [
            (key, data, _checksum(key.encode(), data))
            for key, payload in units.items()
            for data in (payload.to_bytes(),)
        ]
        with self._connection as connection:
            connection.executemany("INSERT INTO unit VALUES (?, ?, ?)", rows)
        self._keys |= units.keys()

    def drop(self, keys: Collection[str]) -> None:
        """Remove unusable units, which will be done again, and warn of them."""
        with self._connection as connection:
            connection.executemany("DELETE FROM unit WHERE key = ?", [(key,) for key in keys])
        self._keys -= set(keys)
        self._warn_of(len(keys))

    def clear(self) -> None:
        """Remove the plan and all units in one transaction."""
        with self._connection as connection:
            connection.execute("DELETE FROM plan")
            connection.execute("DELETE FROM unit")
        self._plan = None
        self._keys = set()

    def _check_units(self) -> set[str]:
        """Remove damaged rows, and return the keys of the intact ones."""
        keys: set[str] = set()
        damaged: list[tuple[int]] = []
        rows = self._connection.execute("SELECT rowid, key, payload, checksum FROM unit")
        for row, key, data, checksum in rows:
            if _intact_payload(key, data, checksum) is None:
                damaged.append((row,))
            else:
                keys.add(key)
        if damaged:
            with self._connection as connection:
                connection.executemany("DELETE FROM unit WHERE rowid = ?", damaged)
            self._warn_of(len(damaged))
        return keys

    def _warn_of(self, count: int) -> None:
        units = "a unit" if count == 1 else f"{count} units"
        done = "it is" if count == 1 else "they are"
        warnings.warn(
            f"{units} of work in {self._path} cannot be used: {done} done anew",
            HeadprobeWarning,
            stacklevel=2,
        )


@contextmanager
def open_progress(path: Path, *, replace: bool = False) -> Iterator[Progress]:
    """Open and lock the progress at ``path``, which is created if it is missing.

    With ``replace`` a damaged file, or one that is no progress file, is replaced by an empty one.

    Raises:
        UsageError: the file is no progress file.
        HeadprobeError: another process has the file open, or it is damaged or cannot be written.
    """
    try:
        with closing(_open_or_replace(path) if replace else _open(path)) as progress:
            yield progress
    except sqlite3.OperationalError as error:
        if _is_busy(error):
            raise _busy(path) from error
        raise HeadprobeError(f"cannot write {path}: {error}", path=path) from error
    except sqlite3.DatabaseError as error:
        message = f"{path} is damaged ({error}); start over with `overwrite`"
        raise HeadprobeError(message, path=path) from error


def stored_plan(path: Path) -> Mapping[str, Any]:
    """Return the plan of the progress at ``path``; empty if there is none to read.

    The file is read without its lock. Damage is reported later, when a run opens the file.
    """
    if not path.is_file():
        return {}
    try:
        with closing(sqlite3.connect(path, timeout=1)) as connection:
            plan = _read_plan(connection)
    except (sqlite3.DatabaseError, UnicodeDecodeError):
        return {}
    return plan.to_json() if plan else {}


def discard_progress(path: Path) -> None:
    """Remove the progress at ``path`` if there is one, damaged or not.

    Raises:
        HeadprobeError: another process has the file open.
    """
    if path.is_file():
        with closing(sqlite3.connect(path, timeout=1)) as connection:
            try:
                connection.execute("BEGIN EXCLUSIVE")
            except sqlite3.DatabaseError as error:
                if _is_busy(error):
                    raise _busy(path) from error
    path.unlink(missing_ok=True)
    _rollback(path).unlink(missing_ok=True)


def _open_or_replace(path: Path) -> Progress:
    try:
        return _open(path)
    except (UsageError, sqlite3.DatabaseError) as error:
        # A file that cannot be opened or locked may be in use by another program.
        if path.is_dir() or isinstance(error, sqlite3.OperationalError):
            raise
    discard_progress(path)
    return _open(path)


def _open(path: Path) -> Progress:
    for file in (path, _rollback(path)):
        # Reading from a pipe would wait for ever.
        if file.exists() and not stat.S_ISREG(file.stat().st_mode):
            raise _foreign(path, f"{file.name} is no regular file")
    connection = sqlite3.connect(path, timeout=1)
    try:
        connection.text_factory = lambda raw: raw.decode(errors="replace")
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        connection.commit()
        _check_whole(connection, path)
        _check_schema(connection, path)
        return Progress(connection, path)
    except UnicodeDecodeError as error:
        # SQLite's own message may quote damaged names.
        connection.close()
        raise sqlite3.DatabaseError("its names are no text") from error
    except BaseException:
        connection.close()
        raise


def _check_whole(connection: sqlite3.Connection, path: Path) -> None:
    # SQLite reads the missing part of a last page as zeros, without an error.
    (page,) = connection.execute("PRAGMA page_size").fetchone()
    if path.stat().st_size % page:
        raise sqlite3.DatabaseError("its end is missing")


def _check_schema(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables in a new file; refuse a file with any others, or with triggers or views."""
    found = connection.execute("SELECT type, sql FROM sqlite_master").fetchall()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if not found and (application, version) == (0, 0):
        with connection:
            connection.execute("BEGIN")
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {_APPLICATION}")
            connection.execute(f"PRAGMA user_version = {_VERSION}")
    elif application != _APPLICATION or sorted(found) != [("table", sql) for sql in _SCHEMA]:
        raise _foreign(path, "its tables are others")
    elif version != _VERSION:
        raise _foreign(path, f"it is of version {version}, this headprobe writes {_VERSION}")


def _read_plan(connection: sqlite3.Connection) -> Plan | None:
    rows = connection.execute("SELECT identity, labels, checksum FROM plan").fetchall()
    if not rows:
        return None
    try:
        ((identity, labels, checksum),) = rows
        texts = isinstance(identity, str) and isinstance(labels, str)
        if not texts or checksum != _checksum(identity.encode(), labels.encode()):
            raise ValueError("expected the checksum of the plan")
        return Plan(identity=json.loads(identity), labels=json.loads(labels))
    except ValueError as error:
        raise sqlite3.DatabaseError("its plan cannot be read") from error


def _intact_payload(key: Any, data: Any, checksum: Any) -> Payload | None:
    """Return a row's payload; ``None`` where the row is not as it was written."""
    whole = isinstance(key, str) and isinstance(data, bytes)
    if not whole or checksum != _checksum(key.encode(), data):
        return None
    try:
        return Payload.from_bytes(data)
    except UnreadablePayload:
        return None


def _checksum(*parts: bytes) -> str:
    # Lengths in between tell where a part ends.
    return digest(piece for part in parts for piece in (len(part).to_bytes(8, "little"), part))


def _rollback(path: Path) -> Path:
    """Return the path of SQLite's rollback journal, which undoes an unfinished write."""
    return path.with_name(f"{path.name}-journal")


def _is_busy(error: sqlite3.DatabaseError) -> bool:
    return "locked" in str(error)


def _busy(path: Path) -> HeadprobeError:
    return HeadprobeError(
        f"another headprobe is working on {path.parent}; wait for it, or give another `out`",
        path=path.parent,
    )


def _foreign(path: Path, why: str) -> UsageError:
    return UsageError(
        f"{path} is no progress of a run ({why}): start over with `overwrite`, or give another "
        "`out`",
        path=path,
    )


def _as_json(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields as JSON would give them back: tuples become lists."""
    found: dict[str, Any] = json.loads(json.dumps(dict(fields)))
    return found

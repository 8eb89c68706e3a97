"""What has been observed, on disk as it happens: an interrupted run goes on where it stopped."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from headprobe.errors import HeadprobeError, UsageError
from headprobe.tasks import PASSED_ABOVE

FILE_NAME = "journal.sqlite"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS plan (json TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS observation (
    case_id INTEGER PRIMARY KEY,
    generated_ids TEXT NOT NULL,
    step_start INTEGER NOT NULL,
    step_end INTEGER NOT NULL,
    response TEXT NOT NULL,
    success REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS score (
    case_id INTEGER NOT NULL REFERENCES observation,
    measure TEXT NOT NULL,
    layers INTEGER NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (case_id, measure)
);
"""


@dataclass(frozen=True, eq=False, kw_only=True)
class Observation:
    """What the model answered on one case, and what each measure says of every head there.

    ``generated_ids`` are the tokens of all steps, the stop token included; those from
    ``step_start`` to ``step_end``, half open, write the answer; ``score`` is the probe's grade
    from 0 to 100.
    """

    case_id: int
    generated_ids: tuple[int, ...]
    step_start: int
    step_end: int
    response: str
    score: float
    scores: Mapping[str, Float[np.ndarray, "layer query_head"]]

    @property
    def passed(self) -> bool:
        """Whether the probe takes the answer for right."""
        return self.score > PASSED_ABOVE


class Journal:
    """The observations of one run, each written as it is made."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def add(self, *observations: Observation) -> None:
        """Write observations, all or none; when this returns they survive a crash."""
        with self._connection as connection:
            connection.executemany(
                "INSERT INTO observation VALUES (?, ?, ?, ?, ?, ?)",
                [
                    (
                        one.case_id,
                        json.dumps(one.generated_ids),
                        one.step_start,
                        one.step_end,
                        one.response,
                        one.score,
                    )
                    for one in observations
                ],
            )
            connection.executemany(
                "INSERT INTO score VALUES (?, ?, ?, ?)",
                [
                    (one.case_id, measure, len(scores), scores.astype("<f4").tobytes())
                    for one in observations
                    for measure, scores in one.scores.items()
                ],
            )

    def merge(self, observations: Iterable[Observation]) -> None:
        """Write those observations whose cases are not here yet."""
        here = self.observed()
        self.add(*(one for one in observations if one.case_id not in here))

    def observed(self) -> set[int]:
        """The cases that need not be run again."""
        return {row[0] for row in self._connection.execute("SELECT case_id FROM observation")}

    def observations(self) -> Iterator[Observation]:
        """All observations in the order of their cases."""
        rows = self._connection.execute("SELECT * FROM observation ORDER BY case_id").fetchall()
        for case_id, generated_ids, step_start, step_end, response, score in rows:
            scores = self._connection.execute(
                "SELECT measure, layers, data FROM score WHERE case_id = ? ORDER BY rowid",
                (case_id,),
            )
            yield Observation(
                case_id=case_id,
                generated_ids=tuple(json.loads(generated_ids)),
                step_start=step_start,
                step_end=step_end,
                response=response,
                score=score,
                scores={
                    measure: np.frombuffer(data, "<f4").reshape(layers, -1)
                    for measure, layers, data in scores
                },
            )


@contextmanager
def open_journal(path: Path, plan: Mapping[str, Any]) -> Iterator[Journal]:
    """The journal at ``path``, made if missing, for a run of exactly this plan.

    Raises:
        UsageError: the journal was started with another plan; the difference is named.
        HeadprobeError: another process is writing it, or it is damaged.
    """
    try:
        with closing(sqlite3.connect(path, timeout=1)) as connection:
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("BEGIN EXCLUSIVE")
            connection.commit()
            connection.executescript(_SCHEMA)
            _check_whole(connection, path)
            _check_plan(connection, plan, path.parent)
            yield Journal(connection)
    except sqlite3.OperationalError as error:
        if _is_busy(error):
            raise _busy(path) from error
        raise HeadprobeError(f"cannot write {path}: {error}") from error
    except sqlite3.DatabaseError as error:
        raise HeadprobeError(f"{path} is damaged ({error}); start over with `overwrite`") from error


def stored_plan(path: Path) -> Mapping[str, Any]:
    """The plan that the journal at ``path`` was started with; empty where there is none."""
    if not path.is_file():
        return {}
    try:
        with closing(sqlite3.connect(path, timeout=1)) as connection:
            row = connection.execute("SELECT json FROM plan").fetchone()
    except sqlite3.DatabaseError:
        # What is wrong with it is said where it is opened for the run.
        return {}
    found: dict[str, Any] = json.loads(row[0]) if row else {}
    return found


def discard_journal(path: Path) -> None:
    """Remove the journal at ``path`` if there is one, damaged or not.

    Raises:
        HeadprobeError: another process is writing it.
    """
    if path.exists():
        with closing(sqlite3.connect(path, timeout=1)) as connection:
            try:
                connection.execute("BEGIN EXCLUSIVE")
            except sqlite3.DatabaseError as error:
                if _is_busy(error):
                    raise _busy(path) from error
    for file in (path, path.with_name(f"{path.name}-journal")):
        file.unlink(missing_ok=True)


def _is_busy(error: sqlite3.DatabaseError) -> bool:
    return "locked" in str(error)


def _busy(path: Path) -> HeadprobeError:
    return HeadprobeError(
        f"another headprobe is working on {path.parent}; wait for it, or give another `out`",
        path=path.parent,
    )


def _check_whole(connection: sqlite3.Connection, path: Path) -> None:
    # SQLite itself reads what is missing of a last page as zeros.
    (page,) = connection.execute("PRAGMA page_size").fetchone()
    if path.stat().st_size % page:
        raise sqlite3.DatabaseError("its end is missing")


def _check_plan(connection: sqlite3.Connection, plan: Mapping[str, Any], run: Path) -> None:
    wanted = json.loads(json.dumps(dict(plan)))
    row = connection.execute("SELECT json FROM plan").fetchone()
    if row is None:
        with connection:
            connection.execute("INSERT INTO plan VALUES (?)", (json.dumps(wanted),))
        return
    stored = json.loads(row[0])
    names = [n for n in {**stored, **wanted} if stored.get(n) != wanted.get(n)]
    if names:
        changes = "; ".join(
            f"{n} was {_short(stored.get(n))}, now {_short(wanted.get(n))}" for n in names
        )
        raise UsageError(
            f"{run} holds a run with other options ({changes}); give the same options to go on, "
            "`overwrite` to start over, or another `out`",
            path=run,
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."

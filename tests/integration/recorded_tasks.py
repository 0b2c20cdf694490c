"""A task manager whose record outlives every process: one file, synced at each step, shared by whoever dispatches.

It keeps its promises: a key begins one task at most, none once it is barred, and none on a rack that is busy.  A task
ends by itself, after a while and in a way that its key decides, whoever watches.  So whatever the dispatchers suffer,
the record is the truth about what was begun, how often, and how many tasks of a run were alive when each began.
Instants are seconds on CLOCK_BOOTTIME, which all processes of the machine have in common and nobody sets.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from time import CLOCK_BOOTTIME, clock_gettime
from typing import Final
from zlib import crc32

from opdispatch.identity import RunId, TaskId
from opdispatch.observation import (
    Observation,
    SubmissionAbsent,
    SubmissionAccepted,
    SubmissionConflicted,
    SubmissionRefused,
    TaskMissing,
    TaskObserved,
)
from opdispatch.task import ClaimRef, Ref, SubmissionRequest, TaskRef, TaskStatus

_TABLES: Final = """
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS task (
  key TEXT PRIMARY KEY, run TEXT NOT NULL, target TEXT NOT NULL, attempt INTEGER NOT NULL, fence INTEGER NOT NULL,
  rack TEXT NOT NULL, began REAL NOT NULL, until REAL NOT NULL, ends REAL NOT NULL,
  cancelled INTEGER NOT NULL DEFAULT 0, alive_then INTEGER NOT NULL, twins INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS task_run ON task (run);
CREATE INDEX IF NOT EXISTS task_rack ON task (rack);
CREATE INDEX IF NOT EXISTS task_target ON task (target);
CREATE TABLE IF NOT EXISTS request (
  number INTEGER PRIMARY KEY, key TEXT NOT NULL, process INTEGER NOT NULL,
  run TEXT NOT NULL, target TEXT NOT NULL, attempt INTEGER NOT NULL, fence INTEGER NOT NULL, at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS request_run ON request (run);
CREATE TABLE IF NOT EXISTS look_up (key TEXT NOT NULL, found INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS barred (key TEXT PRIMARY KEY);
"""
_WAIT_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """A task that was begun: how it ends, and how many of its run, itself included, and of its target, itself left out,
    were alive when it began.

    ``fence`` is that of the claim that it was begun for, and ``until`` the instant after which it was not to begin.
    """

    key: str
    run: str
    target: str
    attempt: int
    fence: int
    rack: str
    began: float
    until: float
    ends: float
    alive_then: int
    twins: int
    status: TaskStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One time that somebody asked for a task."""

    key: str
    process: int
    target: str
    attempt: int
    fence: int
    at: float


class RecordedTasks:
    """The task manager on a record.

    ``lasting`` is the longest that a task takes; the shortest is a third of it.  One in ``failing`` fails (0: none).
    """

    capacity: int | None = None

    def __init__(self, record: Path, lasting: timedelta = timedelta(0), *, failing: int = 0) -> None:
        self._record = record
        self._lasting = lasting.total_seconds()
        self._failing = failing
        with self._opened() as connection:
            connection.executescript(_TABLES)

    @property
    def record(self) -> Path:
        """The file."""
        return self._record

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self._record, timeout=_WAIT_SECONDS, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = FULL")
            yield connection
        finally:
            connection.close()

    @contextmanager
    def _changed(self) -> Iterator[sqlite3.Connection]:
        """One transaction, synced when it is left."""
        with self._opened() as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    # -- the port --

    def submit(self, requests: Sequence[SubmissionRequest], deadline: timedelta) -> Sequence[Observation]:
        """Each is a transaction of its own: a caller that dies in between leaves some begun and some not."""
        end = _now() + deadline.total_seconds()
        answers = (self._begin(request, end) for request in requests)
        return [answer for answer in answers if answer is not None]

    def _begin(self, request: SubmissionRequest, end: float) -> Observation | None:
        key, target = str(request.key), str(request.target_id)
        to = {"target_id": request.target_id, "attempt": request.attempt, "fence": request.fence}
        with self._changed() as connection:
            now = _now()
            if now >= end:
                # Somebody was stopped while the record was his; what begins later than promised must not begin.
                return None
            run, rack, attempt, fence = str(request.run_id), str(request.rack_id), request.attempt, request.fence
            connection.execute(
                "INSERT INTO request (key, process, run, target, attempt, fence, at) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (key, os.getpid(), run, target, attempt, fence, now),
            )
            if connection.execute("SELECT 1 FROM task WHERE key = ?", (key,)).fetchone():
                return SubmissionAccepted(**to, task_id=TaskId(key))  # type: ignore[arg-type]  # one dict, two types
            if connection.execute("SELECT 1 FROM barred WHERE key = ?", (key,)).fetchone():
                return SubmissionRefused(**to, message="the key is barred")  # type: ignore[arg-type]
            if _alive(connection, now, "rack", rack):
                return SubmissionConflicted(**to, message="the rack is busy")  # type: ignore[arg-type]
            twins = _alive(connection, now, "target", target)
            alive = _alive(connection, now, "run", run) + 1
            ends = now + self._lasting * (1 + crc32(key.encode()) % 3) / 3
            connection.execute(
                "INSERT INTO task VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?, ?)",
                (key, run, target, attempt, fence, rack, now, end, ends, alive, twins),
            )
        return SubmissionAccepted(**to, task_id=TaskId(key))  # type: ignore[arg-type]

    def observe(self, refs: Sequence[Ref], looked_at: datetime) -> Sequence[Observation]:
        with self._changed() as connection:
            return [
                self._look(connection, ref, looked_at)
                if isinstance(ref, TaskRef)
                else self._look_up(connection, ref, looked_at)
                for ref in refs
            ]

    def _look(self, connection: sqlite3.Connection, ref: TaskRef, looked_at: datetime) -> Observation:
        row = connection.execute("SELECT ends, cancelled FROM task WHERE key = ?", (ref.task_id,)).fetchone()
        if row is None:
            return TaskMissing(target_id=ref.target_id, task_id=ref.task_id, looked_at=looked_at)
        ends, cancelled = row
        status = self._end_of(ref.task_id, cancelled) if cancelled or ends <= _now() else TaskStatus.RUNNING
        return TaskObserved(
            target_id=ref.target_id, task_id=ref.task_id, status=status, message="", looked_at=looked_at
        )

    def _end_of(self, key: str, cancelled: bool) -> TaskStatus:
        if cancelled:
            return TaskStatus.TERMINATED
        return TaskStatus.FAILED if self._failing and crc32(key.encode()) % self._failing == 0 else TaskStatus.COMPLETED

    def _look_up(self, connection: sqlite3.Connection, ref: ClaimRef, looked_at: datetime) -> Observation:
        found = connection.execute("SELECT 1 FROM task WHERE key = ?", (str(ref.key),)).fetchone() is not None
        connection.execute("INSERT INTO look_up VALUES (?, ?)", (str(ref.key), found))
        if found:
            return SubmissionAccepted(
                target_id=ref.target_id, attempt=ref.attempt, fence=ref.fence, task_id=TaskId(str(ref.key))
            )
        if ref.bar:
            connection.execute("INSERT OR IGNORE INTO barred VALUES (?)", (str(ref.key),))
        return SubmissionAbsent(
            target_id=ref.target_id, attempt=ref.attempt, fence=ref.fence, barred=ref.bar, looked_at=looked_at
        )

    def cancel(self, refs: Sequence[TaskRef]) -> Sequence[Observation]:
        with self._changed() as connection:
            for ref in refs:
                now = _now()
                connection.execute(
                    "UPDATE task SET cancelled = 1, ends = ? WHERE key = ? AND ends > ?", (now, ref.task_id, now)
                )
        return []

    def on_change(self, callback: Callable[[RunId], None]) -> None:
        """It tells nobody: its tasks are polled."""

    # -- the truth --

    def begun(self, run: str | None = None) -> list[Begun]:
        """Every task; those of one run alone, where it is named."""
        with self._opened() as connection:
            asked = (
                "SELECT key, run, target, attempt, fence, rack, began, until, ends, alive_then, twins, cancelled "
                "FROM task WHERE ?1 IS NULL OR run = ?1 ORDER BY began"
            )
            return [
                Begun(
                    key=key,
                    run=of,
                    target=target,
                    attempt=attempt,
                    fence=fence,
                    rack=rack,
                    began=began,
                    until=until,
                    ends=ends,
                    alive_then=alive,
                    twins=twins,
                    status=self._end_of(key, cancelled),
                )
                for key, of, target, attempt, fence, rack, began, until, ends, alive, twins, cancelled in (
                    connection.execute(asked, (run,))
                )
            ]

    def requests(self, run: str) -> list[Request]:
        """Every request for a task of this run, in order."""
        with self._opened() as connection:
            asked = "SELECT key, process, target, attempt, fence, at FROM request WHERE run = ? ORDER BY number"
            return [
                Request(key=key, process=process, target=target, attempt=attempt, fence=fence, at=at)
                for key, process, target, attempt, fence, at in connection.execute(asked, (run,))
            ]

    def forget(self, run: str) -> None:
        """Drop what is known of a run that is over; its keys begin nothing any more."""
        with self._changed() as connection:
            for table in ("task", "request"):
                connection.execute(f"INSERT OR IGNORE INTO barred SELECT key FROM {table} WHERE run = ?", (run,))
                connection.execute(f"DELETE FROM {table} WHERE run = ?", (run,))

    def looked_up(self) -> tuple[int, int]:
        """How many keys whose answer was lost were found when they were looked up, and how many were not."""
        with self._opened() as connection:
            asked = "SELECT count(DISTINCT key) FROM look_up WHERE found = ?"
            (found,), (absent,) = (connection.execute(asked, (is_found,)).fetchone() for is_found in (1, 0))
            return found, absent

    def last_request(self) -> tuple[int, int]:
        """How many requests there were, and the process that made the last one."""
        with self._opened() as connection:
            asked = "SELECT number, process FROM request ORDER BY number DESC LIMIT 1"
            number, process = connection.execute(asked).fetchone() or (0, 0)
            return number, process


def _now() -> float:
    """A clock that all processes of the machine have in common and that nobody sets."""
    return clock_gettime(CLOCK_BOOTTIME)


def _alive(connection: sqlite3.Connection, now: float, of: str, name: str) -> int:
    asked = f"SELECT count(*) FROM task WHERE {of} = ? AND NOT cancelled AND ends > ?"
    (found,) = connection.execute(asked, (name, now)).fetchone()
    return int(found)

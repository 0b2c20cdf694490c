"""The store on SQLite.

SQLite has one write lock for the whole file, so a locked run keeps every other writer waiting, for the milliseconds
that a decision takes: nothing is called while it is held.  Within a process the writers queue up before they reach
the file, because its own waiting is blind and unfair; other processes meet at the file.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

from sqlalchemy import Connection, bindparam, select, text, update
from sqlalchemy.exc import OperationalError

from opdispatch.errors import Unavailable
from opdispatch.identity import RunId

from ..held import HeldRun
from ..schema import run
from ..standing import require_current
from ..store import NOTHING, SERVED, SqlStore
from .engine import (
    PATIENCE,
    bounded,
    file_of,
    file_there,
    is_busy,
    open_engine,
    reading,
    require_file,
    translated,
    uri_of,
    use_wal,
    writing,
)
from .reads import SqliteReads
from .writes import SqliteWrites

_DUE: Final = (
    select(run.c.id)
    .where(*SERVED, run.c.wake_at <= bindparam("now"))
    .order_by(run.c.wake_at, run.c.id)
    .limit(bindparam("limit"))
)
_TAKE: Final = update(run).values(wake_at=bindparam("until"), updated_at=bindparam("now"))


def _utc_now() -> datetime:
    return datetime.now(UTC)


class SqliteStore(SqlStore):
    """Runs in a SQLite file.  Safe for threads; other processes may open the same file.

    ``source`` is a path or ``sqlite:///path``; its tables must be migrated (``migrate``).  ``clock`` gives the store's
    time, the host's unless a test brings its own.  ``patience`` is how long to wait for the file's write lock, also
    where a lock is asked for without waiting: another run's commit is not a hold of this run.

    Raises:
        InvalidInput: the source names no file that a store can be in.
        CorruptRecord: not a database, not ours, or written by a newer version.
        Unavailable: there is no store yet, it must be migrated first, or the file cannot be used now.
    """

    def __init__(
        self, source: str | Path, *, clock: Callable[[], datetime] = _utc_now, patience: timedelta = PATIENCE
    ) -> None:
        self.path = file_of(source)
        require_file(self.path)
        # Nothing is kept in the process: a file is near, and somebody with a shell may change it.
        super().__init__(f"store {self.path}", clock, SqliteReads(), SqliteWrites(), known=0)
        self._host_clock = clock
        self._patience = patience
        self._writers = threading.Lock()
        self._held: RunId | None = None
        self._watch_lock = threading.Lock()
        self._watch: sqlite3.Connection | None = None
        self._file, self._watched, self._watches = self.path.absolute(), file_there(self.path), 0
        self._engine, self._uri = open_engine(self.path), uri_of(self.path)
        try:
            with self._reading() as connection:
                require_current(connection, self._what)
            with translated(self._what):
                use_wal(self._engine)
        except BaseException:
            self._engine.dispose()
            raise

    @property
    def files(self) -> Sequence[Path]:
        return tuple(self._file.with_name(f"{self._file.name}{ending}") for ending in ("", "-wal", "-shm"))

    def close(self) -> None:
        self._engine.dispose()
        with self._watch_lock:
            if self._watch is not None:
                self._watch.close()
                self._watch = None

    # -- transactions --

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with translated(self._what), bounded(self._what), reading(self._engine) as connection:
            yield connection

    def _looking(self) -> AbstractContextManager[Connection]:
        return self._reading()

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        if not self._writers.acquire(timeout=self._patience.total_seconds()):
            raise Unavailable(self._what, f"it is being written to for more than {self._patience}")
        try:
            with translated(self._what), bounded(self._what), writing(self._engine, self._patience) as connection:
                yield connection
        finally:
            self._writers.release()

    @contextmanager
    def lock(self, run_id: RunId, wait: timedelta) -> Iterator[HeldRun | None]:
        with translated(self._what), ExitStack() as stack:
            connection = self._hold(stack, run_id, wait)
            if connection is None:
                yield None
                return
            row = self._known_head(connection, run_id)
            yield HeldRun(connection, row, self._host_clock, self._reader, self._writes)

    def _hold(self, stack: ExitStack, run_id: RunId, wait: timedelta) -> Connection | None:
        """The write lock, taken for this run; None when it could not be had in time."""
        wait = max(wait, NOTHING)
        if self._held != run_id:
            wait = max(wait, self._patience)
        if not self._writers.acquire(timeout=min(wait.total_seconds(), threading.TIMEOUT_MAX)):
            return None
        stack.callback(self._let_go)
        self._held = run_id
        try:
            return stack.enter_context(writing(self._engine, max(wait, self._patience)))
        except OperationalError as error:
            if is_busy(error):
                return None
            raise

    def _let_go(self) -> None:
        self._held = None
        self._writers.release()

    def due(self, limit: int, lease: timedelta, *, only: RunId | None = None) -> Sequence[RunId]:
        first = self.next_due(only=only)
        if first is None or first > NOTHING:
            # Nearly every look finds nothing; it must not queue up for the write lock.
            return ()
        with self._writing() as connection:
            now = self._now(connection)
            which = _DUE if only is None else _DUE.where(run.c.id == only)
            asked = {"now": now, "limit": limit}
            taken = connection.scalars(which, asked).all()
            if taken:
                connection.execute(_TAKE.where(run.c.id.in_(which)), {**asked, "until": now + lease})
            # One whose id somebody made unreadable is moved too, and served by nobody.
            return tuple(RunId(run_id) for run_id in taken if isinstance(run_id, UUID))

    # -- looking after the file --

    def version(self) -> int:
        """A number that differs from an earlier one when anybody, this process too, committed in between.

        Cheap (``PRAGMA data_version`` on a connection of its own): what a driver looks at to be woken.
        """
        with self._watch_lock, translated(self._what):
            there = file_there(self._file)
            if self._watch is not None and there != self._watched:
                self._watch.close()
                self._watch = None
            if self._watch is None:
                self._watched, self._watches = there, self._watches + 1
                self._watch = sqlite3.connect(self._uri, uri=True, check_same_thread=False)
            found: int = self._watch.execute("PRAGMA data_version").fetchone()[0]
            # Each connection counts for itself, in 32 bits.
            return (self._watches << 32) + found

    def _damage(self, connection: Connection) -> Sequence[str]:
        damage = connection.execute(text("PRAGMA integrity_check")).scalars().all()
        return [f"the file: {sentence}" for sentence in damage if sentence != "ok"]

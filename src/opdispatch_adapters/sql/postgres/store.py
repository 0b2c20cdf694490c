"""The store on PostgreSQL: many processes, one truth.

A run is held by its row's lock, taken without waiting where somebody else may hold it; nothing else is locked.  Time
is the database's, read in the statement that takes the lock.  Every wait ends: for a connection, for a lock, for a
statement, for a transaction that went silent.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from typing import Any, Final, Literal

import psycopg
from sqlalchemy import Connection, Select, func, text
from sqlalchemy.dialects.postgresql import insert

from opdispatch.errors import NotFound, Unavailable
from opdispatch.identity import RunId
from opdispatch.target import Target

from .. import rows
from ..held import HeldRun
from ..schema import run, target
from ..standing import require_current
from ..store import NOTHING, SqlStore, require_run
from .driver import fetch
from .engine import is_lock_timeout, open_engine, translated
from .listen import Listener
from .reads import PostgresReads
from .settings import CHANNEL, PostgresSettings, shown, url_of
from .soundness import damage, risks
from .writes import PostgresWrites

_MILLISECOND: Final = timedelta(milliseconds=1)
_DUE: Final = """
WITH picked AS MATERIALIZED (
  SELECT id, wake_at FROM operation_run
  WHERE quarantined_at IS NULL AND wake_at <= {now}{only}
  ORDER BY wake_at, id LIMIT %(limit)s FOR NO KEY UPDATE SKIP LOCKED
), moved AS (
  UPDATE operation_run SET wake_at = {now} + %(lease)s, updated_at = {now}
  WHERE id = ANY(ARRAY(SELECT id FROM picked)) RETURNING id
)
SELECT id FROM picked WHERE id = ANY(ARRAY(SELECT id FROM moved)) AND {unhurried} ORDER BY wake_at, id
"""
_WAKE: Final = """
UPDATE operation_run SET wake_at = {now}, updated_at = {now}
WHERE id = %(run)s AND error_count = 0 AND (wake_at IS NULL OR wake_at > {now}) AND {unhurried} AND {impatient}
"""
# A server that crashes may forget these two, so nobody waits until they are on its disk: what is decided later takes
# them along, a run that is offered again is taken again, and a hint that is lost costs a poll.
_UNHURRIED: Final = "set_config('synchronous_commit', 'off', true) IS NOT NULL"
# A hint waits for the milliseconds that a decision takes, and no longer: whoever gives it has other runs to serve.
_IMPATIENT: Final = "set_config('lock_timeout', '250', true) IS NOT NULL"
# In a subquery the clock is read once and can bound an index; by itself it is read for every row.
_CLOCK: Final = "(SELECT clock_timestamp())"


class _Held:
    """The runs that this process holds: a second lock on one waits here, and needs no connection to learn that."""

    def __init__(self) -> None:
        self._runs: set[RunId] = set()
        self._freed = threading.Condition()

    def take(self, run_id: RunId, wait: timedelta) -> bool:
        with self._freed:
            if not self._freed.wait_for(lambda: run_id not in self._runs, max(wait, NOTHING).total_seconds()):
                return False
            self._runs.add(run_id)
            return True

    def give(self, run_id: RunId) -> None:
        with self._freed:
            self._runs.discard(run_id)
            self._freed.notify_all()


class _Busy(Exception):
    """Ends the transaction that could not have the lock; never leaves this module."""


class PostgresStore(SqlStore):
    """Runs in a PostgreSQL database.  Safe for threads and for any number of processes on any number of hosts.

    ``source`` is ``postgresql://user:password@host:port/database``; its tables must be migrated (``migrate``).  The
    settings can stand in its query.  ``clock`` is for tests; without it time is the database's.

    Raises:
        InvalidInput: the source is not such a URL.
        CorruptRecord: the tables are not ours, or were written by a newer version.
        Unavailable: the database cannot be reached, or must be migrated first.
    """

    def __init__(
        self,
        source: str,
        *,
        clock: Callable[[], datetime] | None = None,
        settings: PostgresSettings | None = None,
    ) -> None:
        self.url, self.settings = url_of(source, settings)
        what = f"store {shown(self.url)}"
        super().__init__(what, clock, PostgresReads(), PostgresWrites(), known=self.settings.known)
        self._held = _Held()
        self._now_sql = _CLOCK if clock is None else "%(now)s"
        self._engine = open_engine(self.url, self.settings)
        # As text, made once: what SQLAlchemy does for each execution costs more than the server does for these.
        head = self._head
        self._head_names = tuple(column.name for column in head.selected_columns)
        self._head_sql = self._text_of(head)
        self._lock_now = self._text_of(head.with_for_update(skip_locked=True, key_share=True))
        self._lock_waiting = self._text_of(head.with_for_update(key_share=True))
        self._snapshots = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._single = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        try:
            with self._reading() as connection:
                require_current(connection, self._what)
        except BaseException:
            self._engine.dispose()
            raise

    def close(self) -> None:
        self._engine.dispose()

    # -- transactions --

    def _database_clock(self) -> Any:
        return func.clock_timestamp()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with translated(self._what), self._snapshots.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def _looking(self) -> Iterator[Connection]:
        if self.settings.pooler:
            with self._reading() as connection:
                yield connection
            return
        with translated(self._what), self._single.connect() as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        with translated(self._what), self._engine.connect() as connection, connection.begin():
            yield connection

    def _changing(self) -> AbstractContextManager[Connection]:
        """For a write of one statement."""
        return self._writing() if self.settings.pooler else self._looking()

    def _text_of(self, query: Select[Any]) -> str:
        return str(query.compile(dialect=self._engine.dialect))

    def _row(self, connection: Connection, sql: str, run_id: RunId) -> rows.NamedRow | None:
        for row in fetch(connection, sql, {"run": run_id}):
            return dict(zip(self._head_names, row, strict=True))
        return None

    def _known_head(self, connection: Connection, run_id: RunId) -> rows.NamedRow:
        row = self._row(connection, self._head_sql, run_id)
        if row is None:
            raise NotFound("run", str(run_id))
        return row

    # -- the lock --

    @contextmanager
    def lock(self, run_id: RunId, wait: timedelta) -> Iterator[HeldRun | None]:
        if not self._held.take(run_id, wait):
            yield None
            return
        try:
            held: HeldRun | None = None
            try:
                with self._writing() as connection:
                    row = self._locked(connection, run_id, wait)
                    held = HeldRun(connection, row, lambda: self._read_clock(row["clock"]), self._reader, self._writes)
                    yield held
            except _Busy:
                held = None
            except BaseException:
                # Nobody knows what became of it, the commit least of all.
                self._known.forget(run_id)
                raise
            if held is None:
                yield None
            elif held.after is not None:
                self._known.keep(run_id, held.after)
        finally:
            self._held.give(run_id)

    def _locked(self, connection: Connection, run_id: RunId, wait: timedelta) -> rows.NamedRow:
        """The run's row under its lock.  Raises NotFound, and _Busy when somebody else holds it for longer."""
        row = self._row(connection, self._lock_now, run_id)
        if row is not None:
            return row
        require_run(connection, run_id)
        if wait <= NOTHING:
            raise _Busy
        connection.execute(_LOCK_TIMEOUT, {"wait": str(max(wait // _MILLISECOND, 1))})
        try:
            row = self._row(connection, self._lock_waiting, run_id)
        except psycopg.Error as error:
            if is_lock_timeout(error):
                raise _Busy from error
            raise
        if row is None:
            raise _Busy
        # The clock was read before the wait; what is decided must not be older than the lock.
        return self._known_head(connection, run_id)

    def due(self, limit: int, lease: timedelta, *, only: RunId | None = None) -> Sequence[RunId]:
        sql = _DUE.format(now=self._now_sql, unhurried=_UNHURRIED, only="" if only is None else " AND id = %(only)s")
        asked: dict[str, Any] = {"limit": limit, "lease": lease, "only": only}
        if self._clock is not None:
            asked["now"] = self._clock()
        with self._changing() as connection:
            return tuple(RunId(found) for (found,) in fetch(connection, sql, asked))

    def wake(self, run_id: RunId) -> None:
        asked = {"run": run_id, "now": self._clock() if self._clock is not None else None}
        try:
            with self._changing() as connection:
                sql = _WAKE.format(now=self._now_sql, unhurried=_UNHURRIED, impatient=_IMPATIENT)
                fetch(connection, sql, asked)
        except Unavailable as error:
            # A hint waits for whoever holds the run, as any change does; it is lost when that takes too long.
            if error.__cause__ is None or not is_lock_timeout(error.__cause__):
                raise

    # -- the ways of PostgreSQL --

    def _announce(self, connection: Connection, run_id: RunId) -> None:
        connection.execute(_NOTIFY, {"run": str(run_id)})

    def _insert_run(self, connection: Connection, columns: rows.Columns) -> bool:
        # Waits for the other transaction, and sees what it made.
        made = insert(run).values(**columns).on_conflict_do_nothing().returning(run.c.id)
        return connection.execute(made).first() is not None

    def _insert_targets(self, connection: Connection, run_id: RunId, targets: Sequence[Target], now: datetime) -> None:
        driver: Any = connection.connection.driver_connection
        columns = [column.name for column in target.c if column.name != "lane"]
        with driver.cursor().copy(f"COPY operation_run_target ({', '.join(columns)}) FROM STDIN") as copy:
            for found in targets:
                values = rows.new_target_columns(run_id, found, now)
                copy.write_row([values[name] for name in columns])

    # -- looking after the database --

    def _damage(self, connection: Connection) -> Sequence[str]:
        return tuple(damage(connection))

    def cautions(self) -> Sequence[str]:
        with self._reading() as connection:
            return tuple(risks(connection))

    # -- hearing --

    def listening(self, heard: Callable[[], None]) -> AbstractContextManager[object]:
        """Call ``heard``, from another thread, whenever a run was created or commanded, until the block is left.

        Entered as False, and nothing more, where notifications cannot be had; polling then takes their place.
        """
        return self._listening(heard)

    @contextmanager
    def _listening(self, heard: Callable[[], None]) -> Iterator[Listener | Literal[False]]:
        if not self.settings.listens:
            yield False
            return
        listener = Listener(self.url, self.settings, heard)
        listener.start()
        try:
            yield listener
        finally:
            listener.stop()


_LOCK_TIMEOUT: Final = text("SELECT set_config('lock_timeout', :wait, true)")
_NOTIFY: Final = text(f"SELECT pg_notify('{CHANNEL}', :run)")

"""The store on SQLite: every method is one transaction, and equals what the memory store does.

SQLite has one write lock for the whole file, so a locked run keeps every other writer waiting, for the milliseconds
that a decision takes: nothing is called while it is held.  Within a process the writers queue up before they reach
the file, because its own waiting is blind and unfair; other processes meet at the file.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from sqlalchemy import Connection, RowMapping, Select, func, insert, select, text, true, update
from sqlalchemy.exc import OperationalError

from opdispatch.errors import CorruptRecord, InvalidInput, NotFound, Unavailable
from opdispatch.evolve import new_record
from opdispatch.identity import RunId
from opdispatch.plan import NewRun
from opdispatch.ports import JournalEntry, Listed, Looks, Overview, Trouble
from opdispatch.run import Run, RunStatus
from opdispatch.state import refs_of
from opdispatch.target import Pending, Stray, Target, TargetStatus

from . import recount, rows, schema
from .engine import PATIENCE, file_of, is_busy, open_engine, reading, require_file, translated, use_wal, writing
from .held import HeldRun, by_task, in_flight_of, open_strays_of
from .schema import journal, phase, run, stray, target
from .standing import require_current

_NOTHING: Final = timedelta(0)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class SqlStore:
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
        self._what = f"store {self.path}"
        self._clock = clock
        self._patience = patience
        self._writers = threading.Lock()
        self._held: RunId | None = None
        self._watch_lock = threading.Lock()
        self._watch: sqlite3.Connection | None = None
        self._engine = open_engine(self.path)
        try:
            with self._reading() as connection:
                require_current(connection, self._what)
            with translated(self._what):
                use_wal(self._engine)
        except BaseException:
            self._engine.dispose()
            raise

    def close(self) -> None:
        """Give the file up.  The store can be used again; it opens anew."""
        self._engine.dispose()
        with self._watch_lock:
            if self._watch is not None:
                self._watch.close()
                self._watch = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # -- transactions --

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with translated(self._what), reading(self._engine) as connection:
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        if not self._writers.acquire(timeout=self._patience.total_seconds()):
            raise Unavailable(self._what, f"it is being written to for more than {self._patience}")
        try:
            with translated(self._what), writing(self._engine, self._patience) as connection:
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
            _require_run(connection, run_id)
            yield HeldRun(connection, run_id, self._clock)

    def _hold(self, stack: ExitStack, run_id: RunId, wait: timedelta) -> Connection | None:
        """The write lock, taken for this run; None when it could not be had in time."""
        wait = max(wait, _NOTHING)
        if self._held != run_id:
            wait = max(wait, self._patience)
        if not self._writers.acquire(timeout=wait.total_seconds()):
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

    # -- the life of a run --

    def create(self, new: NewRun) -> Run:
        with self._writing() as connection:
            row = _run_row(connection, new.run.id)
            if row is None:
                self._insert(connection, new)
                return new.run
            known = rows.run_from(row)
        if known.rollout != new.run.rollout:
            raise InvalidInput.at(
                "command_id",
                f"{new.command_id!r} made run {known.id} of another rollout",
                "use a new one for a new run",
            )
        return known

    def _insert(self, connection: Connection, new: NewRun) -> None:
        now, run_id = self._clock(), new.run.id
        record = new_record(new.run, new.targets)
        connection.execute(insert(run).values(**rows.new_run_columns(new, now)))
        if record.phases:
            connection.execute(insert(phase), _phase_rows(run_id, record.phases, record.targets.values()))
        if new.targets:
            connection.execute(insert(target), [rows.new_target_columns(run_id, found, now) for found in new.targets])

    def due(self, limit: int, lease: timedelta, *, only: RunId | None = None) -> Sequence[RunId]:
        first = self.next_due(only=only)
        if first is None or first > _NOTHING:
            # Nearly every look finds nothing; it must not queue up for the write lock.
            return ()
        with self._writing() as connection:
            now = self._clock()
            c = run.c
            query = _served(select(c.id), only).where(c.wake_at <= now).order_by(c.wake_at, c.id).limit(limit)
            taken = tuple(RunId(run_id) for run_id in connection.scalars(query))
            if taken:
                moved = {"wake_at": now + lease, "updated_at": now}
                connection.execute(update(run).where(c.id.in_(taken)).values(**moved))
            return taken

    def next_due(self, *, only: RunId | None = None) -> timedelta | None:
        wake_at = run.c.wake_at
        with self._reading() as connection:
            first = connection.scalar(_served(select(func.min(wake_at, type_=wake_at.type)), only))
            return None if first is None else max(first - self._clock(), _NOTHING)

    def wake(self, run_id: RunId) -> None:
        with self._writing() as connection:
            now, c = self._clock(), run.c
            sleeps = c.wake_at.is_(None) | (c.wake_at > now)
            connection.execute(
                update(run).where(c.id == run_id, c.error_count == 0, sleeps).values(wake_at=now, updated_at=now)
            )

    def report(
        self, run_id: RunId, message: str, retry_in: Callable[[int], timedelta], quarantine_after: int
    ) -> Trouble:
        with self._writing() as connection:
            c = run.c
            row = connection.execute(select(c.error_count, c.quarantined_at).where(c.id == run_id)).first()
            if row is None:
                raise NotFound("run", str(run_id))
            before, quarantined_at = row
            count, now = before + 1, self._clock()
            if quarantined_at is None and count >= quarantine_after:
                quarantined_at = now
            connection.execute(
                update(run)
                .where(c.id == run_id)
                .values(
                    error_count=count,
                    error_message=message,
                    error_at=now,
                    quarantined_at=quarantined_at,
                    wake_at=now + retry_in(count),
                    updated_at=now,
                )
            )
            return Trouble(message=message, count=count, at=now, quarantined_at=quarantined_at)

    def release(self, run_id: RunId) -> bool:
        with self._writing() as connection:
            now, c = self._clock(), run.c
            cleared = {"error_count": 0, "error_message": None, "error_at": None, "quarantined_at": None}
            result = connection.execute(
                update(run).where(c.id == run_id, c.error_count > 0).values(**cleared, wake_at=now, updated_at=now)
            )
            if result.rowcount:
                return True
            _require_run(connection, run_id)
            return False

    # -- reading --

    def unsettled(self, run_id: RunId) -> Looks:
        with self._reading() as connection:
            found = rows.run_from(_known_row(connection, run_id))
            in_flight = [rows.target_from(row) for row in connection.execute(in_flight_of(run_id)).mappings()]
            strays = by_task(rows.stray_from(row) for row in connection.execute(open_strays_of(run_id)).mappings())
            now = self._clock()
            return Looks(refs=refs_of(found, in_flight, strays, now), looked_at=now)

    def get(self, run_id: RunId) -> Overview:
        with self._reading() as connection:
            row = _known_row(connection, run_id)
            phases = connection.execute(
                select(phase).where(phase.c.operation_run_id == run_id).order_by(phase.c.phase_index)
            ).mappings()
            is_open = select(func.count()).where(stray.c.operation_run_id == run_id, stray.c.is_open == true())
            return Overview(
                run=rows.run_from(row),
                phases=tuple(rows.tally_from(row) for row in phases),
                open_strays=connection.scalar(is_open) or 0,
                trouble=rows.trouble_from(row),
                wake_at=row["wake_at"],
            )

    def list(
        self, *, statuses: AbstractSet[RunStatus] = frozenset(), limit: int = 100, offset: int = 0
    ) -> Sequence[Listed]:
        query = schema.run_rows.order_by(run.c.created_at.desc(), run.c.id).limit(limit).offset(offset)
        if statuses:
            query = query.where(run.c.status.in_(sorted(statuses)))
        with self._reading() as connection:
            return tuple(self._listed(row) for row in connection.execute(query).mappings())

    def _listed(self, row: RowMapping) -> Listed:
        found, trouble = None, rows.trouble_from(row)
        try:
            found = rows.run_from(row)
        except CorruptRecord as error:
            trouble = trouble or Trouble(message=str(error), count=1, at=self._clock())
        return Listed(
            run_id=RunId(row["id"]),
            name=row["name"],
            status=RunStatus(row["status"]),
            created_at=row["created_at"],
            run=found,
            trouble=trouble,
        )

    def targets(
        self,
        run_id: RunId,
        *,
        statuses: AbstractSet[TargetStatus] = frozenset(),
        phases: AbstractSet[int] = frozenset(),
        limit: int | None = None,
        offset: int = 0,
    ) -> Sequence[Target]:
        c = target.c
        query = schema.target_rows.where(c.operation_run_id == run_id).order_by(c.sequence_index)
        query = query.limit(limit).offset(offset)
        if statuses:
            query = query.where(c.status.in_(sorted(statuses)))
        if phases:
            query = query.where(c.phase_index.in_(sorted(phases)))
        return tuple(rows.target_from(row) for row in self._of_run(run_id, query))

    def strays(self, run_id: RunId) -> Sequence[Stray]:
        query = select(stray).where(stray.c.operation_run_id == run_id)
        return by_task(rows.stray_from(row) for row in self._of_run(run_id, query))

    def journal(self, run_id: RunId, *, after: int = 0, limit: int | None = None) -> Sequence[JournalEntry]:
        c = journal.c
        query = select(journal).where(c.operation_run_id == run_id, c.number > after).order_by(c.number).limit(limit)
        return tuple(rows.entry_from(row) for row in self._of_run(run_id, query))

    def _of_run(self, run_id: RunId, query: Select[Any]) -> Sequence[RowMapping]:
        with self._reading() as connection:
            _require_run(connection, run_id)
            return connection.execute(query).mappings().all()

    # -- looking after the file --

    def version(self) -> int:
        """A number that differs from an earlier one when anybody, this process too, committed in between.

        Cheap (``PRAGMA data_version`` on a connection of its own): what a driver looks at to be woken.
        """
        with self._watch_lock, translated(self._what):
            if self._watch is None:
                self._watch = sqlite3.connect(
                    f"{self.path.absolute().as_uri()}?mode=rw", uri=True, check_same_thread=False
                )
            found: int = self._watch.execute("PRAGMA data_version").fetchone()[0]
            return found

    def check(self) -> Sequence[str]:
        """Recount every counter and cursor, and have SQLite check the file: one sentence per difference.

        Repairs nothing.  Cost: reads every target.
        """
        with self._reading() as connection:
            damage = connection.execute(text("PRAGMA integrity_check")).scalars().all()
            found = [f"the file: {sentence}" for sentence in damage if sentence != "ok"]
            return (*found, *recount.differences(connection))


def _served(query: Select[Any], only: RunId | None) -> Select[Any]:
    query = query.where(text(schema.SERVED), run.c.wake_at.is_not(None))
    return query if only is None else query.where(run.c.id == only)


def _run_row(connection: Connection, run_id: RunId) -> RowMapping | None:
    return connection.execute(schema.run_rows.where(run.c.id == run_id)).mappings().first()


def _known_row(connection: Connection, run_id: RunId) -> RowMapping:
    row = _run_row(connection, run_id)
    if row is None:
        raise NotFound("run", str(run_id))
    return row


def _require_run(connection: Connection, run_id: RunId) -> None:
    if connection.scalar(select(run.c.id).where(run.c.id == run_id)) is None:
        raise NotFound("run", str(run_id))


def _phase_rows(run_id: RunId, tallies: Sequence[Any], targets: Any) -> list[rows.Columns]:
    """The counters of a new run, and the cursors that its targets amount to."""
    flying: dict[int, list[int]] = {}
    pending: dict[int, int] = {}
    for found in targets:
        if found.status.holds_slot:
            flying.setdefault(found.phase, []).append(found.sequence)
        if isinstance(found.state, Pending):
            pending.setdefault(found.phase, found.sequence)
    return [
        {
            **rows.tally_columns(tally),
            "operation_run_id": run_id,
            "phase_index": index,
            "low_seq": min(flying.get(index, [0])),
            "high_seq": max(flying.get(index, [-1])) + 1,
            "next_seq": pending.get(index, 0),
        }
        for index, tally in enumerate(tallies)
    ]

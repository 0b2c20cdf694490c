"""What the stores in a database have in common: every method is one transaction, and equals what the memory store does.

A database brings its own ways of opening, locking and waiting (``sqlite``, ``postgres``); what is read and what is
written is the same on all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from sqlalchemy import Connection, Row, RowMapping, Select, bindparam, func, insert, literal, select, true, update
from sqlalchemy import text as sql_text

from opdispatch.errors import NotFound
from opdispatch.evolve import new_record
from opdispatch.identity import RunId, TargetId
from opdispatch.journal import JournalEntry
from opdispatch.observation import Observation
from opdispatch.plan import NewRun, require_same_rollout
from opdispatch.ports import Glance, Listed, Looks, Overview, Trouble
from opdispatch.query import EVERY_RUN, RunQuery
from opdispatch.run import Run
from opdispatch.state import Limits, refs_of
from opdispatch.tally import Tally
from opdispatch.target import Stray, Target, TargetStatus

from . import asked, recount, rows, schema
from .changes import Writes
from .held import HeldRun, Reader
from .schema import journal, phase, run, stray, target
from .strict import Unread
from .window import Known, Reads, is_new

NOTHING: Final = timedelta(0)
SERVED: Final = (sql_text(schema.SERVED), run.c.wake_at.is_not(None))
"""Runs that are not in quarantine and are due at some time."""
_RUN: Final = schema.run_rows.where(run.c.id == bindparam("run"))
_RUN_ID: Final = select(run.c.id).where(run.c.id == bindparam("run"))


class SqlStore(ABC):
    """Runs in a database.  Safe for threads and for any number of processes.

    ``clock`` gives the store's time where a test brings its own; else the database's is read, in the transaction.
    ``known`` is how many runs' last snapshots are kept in this process (0: each is read anew).
    """

    def __init__(
        self, what: str, clock: Callable[[], datetime] | None, reads: Reads, writes: Writes, known: int
    ) -> None:
        self._what = what
        self._clock = clock
        self._known = Known(known)
        self._reader = Reader(reads, self._known)
        self._writes = writes
        self._clock_column = self._database_clock().label("clock")
        self._head = schema.head_rows.where(run.c.id == bindparam("run")).add_columns(self._clock_column)
        first = func.min(run.c.wake_at, type_=run.c.wake_at.type).label("first")
        self._first = select(first, self._clock_column).where(*SERVED)

    @property
    def name(self) -> str:
        """The store as a message names it: never with a password."""
        return self._what

    @property
    def files(self) -> Sequence[Path]:
        """The files on this host that are the store's own."""
        return ()

    @abstractmethod
    def close(self) -> None:
        """Give the database up.  The store can be used again; it opens anew."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    # -- what a database brings --

    @abstractmethod
    def _reading(self) -> AbstractContextManager[Connection]:
        """One snapshot; nothing is written."""

    @abstractmethod
    def _looking(self) -> AbstractContextManager[Connection]:
        """For a look whose statements need not be of one moment."""

    @abstractmethod
    def _writing(self) -> AbstractContextManager[Connection]:
        """One transaction; leaving with an exception undoes it."""

    @abstractmethod
    def lock(self, run_id: RunId, wait: timedelta) -> AbstractContextManager[HeldRun | None]:
        """See the port."""

    @abstractmethod
    def due(self, limit: int, lease: timedelta, *, only: RunId | None = None) -> Sequence[RunId]:
        """See the port."""

    def _database_clock(self) -> Any:
        """The database's own clock, as an expression."""
        return literal(None)

    def _announce(self, connection: Connection, run_id: RunId) -> None:
        """Tell other processes, when the transaction commits, that this run is due.  A file has no way to."""
        return

    def _insert_run(self, connection: Connection, columns: rows.Columns) -> bool:
        """False when it is there by now: another transaction may have made it since it was looked for."""
        connection.execute(insert(run).values(**columns))
        return True

    def _insert_targets(self, connection: Connection, run_id: RunId, targets: Sequence[Target], now: datetime) -> None:
        connection.execute(insert(target), [rows.new_target_columns(run_id, found, now) for found in targets])

    def _now(self, connection: Connection) -> datetime:
        return self._read_clock(connection.scalar(select(self._clock_column)) if self._clock is None else None)

    def _read_clock(self, read: Any) -> datetime:
        """The store's time: what the database told, or the clock that a test brought."""
        if self._clock is not None:
            return self._clock()
        found: datetime = read
        return found

    # -- the life of a run --

    def create(self, new: NewRun) -> Run:
        with self._writing() as connection:
            stored = schema.run_rows.where(run.c.id == new.run.id)
            row = connection.execute(stored).mappings().first()
            if row is None:
                if self._insert(connection, new):
                    return new.run
                row = connection.execute(stored).mappings().one()
            known = rows.run_from(row)
        require_same_rollout(known, new.run.rollout, new.command_id)
        return known

    def _insert(self, connection: Connection, new: NewRun) -> bool:
        """False when somebody else made the run at the same time."""
        now, run_id = self._now(connection), new.run.id
        record = new_record(new.run, new.targets)
        if not self._insert_run(connection, rows.new_run_columns(new, now)):
            return False
        if record.phases:
            connection.execute(insert(phase), _phase_rows(run_id, record.phases, record.targets.values()))
        if new.targets:
            self._insert_targets(connection, run_id, new.targets, now)
        self._announce(connection, run_id)
        return True

    def next_due(self, *, only: RunId | None = None) -> timedelta | None:
        query = self._first if only is None else self._first.where(run.c.id == only)
        with self._looking() as connection:
            row = connection.execute(query).one()
            if isinstance(row.first, Unread):
                # The others must not wait for somebody to mend it: whoever asks looks for what is due.
                return NOTHING
            return None if row.first is None else max(row.first - self._read_clock(row.clock), NOTHING)

    def wake(self, run_id: RunId) -> None:
        with self._writing() as connection:
            self._wake(connection, run_id)

    def _wake(self, connection: Connection, run_id: RunId) -> None:
        now, c = self._now(connection), run.c
        sleeps = c.wake_at.is_(None) | (c.wake_at > now)
        connection.execute(
            update(run).where(c.id == run_id, c.error_count == 0, sleeps).values(wake_at=now, updated_at=now)
        )

    def report(
        self, run_id: RunId, message: str, retry_in: Callable[[int], timedelta], quarantine_after: int
    ) -> Trouble:
        with self._writing() as connection:
            c = run.c
            query = select(c.error_count, c.quarantined_at).where(c.id == run_id).with_for_update()
            row = connection.execute(query).first()
            if row is None:
                raise NotFound("run", str(run_id))
            before, quarantined_at = rows.counted_errors(*row)
            count, now = before + 1, self._now(connection)
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
            now, c = self._now(connection), run.c
            cleared = {"error_count": 0, "error_message": None, "error_at": None, "quarantined_at": None}
            result = connection.execute(
                update(run).where(c.id == run_id, c.error_count > 0).values(**cleared, wake_at=now, updated_at=now)
            )
            if result.rowcount:
                self._announce(connection, run_id)
                return True
            require_run(connection, run_id)
            return False

    # -- reading --

    def unsettled(self, run_id: RunId) -> Looks:
        with self._looking() as connection:
            row = self._known_head(connection, run_id)
            now = self._read_clock(row["clock"])
            found = self._reader.snapshot(connection, run_id, row["revision"], row["decided_at"])
            if found is None:
                raise NotFound("run", str(run_id))
            is_ended = rows.status_from(row).is_terminal
            return Looks(refs=refs_of(run_id, found.in_flight, found.strays, now, is_ended=is_ended), looked_at=now)

    def glance(self, run_id: RunId, observations: Sequence[Observation], limits: Limits) -> Glance | None:
        with self._reading() as connection:
            row = self._known_head(connection, run_id)
            snapshot = self._reader.snapshot(connection, run_id, row["revision"], row["decided_at"])
            if snapshot is None or snapshot.revision != row["revision"]:
                return None
            found, now = self._reader.run_of(connection, row), self._read_clock(row["clock"])
            window = self._reader.window(connection, found, snapshot, now, observations, limits)
            return Glance(state=window.state, wake_at=row["wake_at"], is_troubled=row["error_count"] > 0)

    def _known_head(self, connection: Connection, run_id: RunId) -> rows.NamedRow:
        row = connection.execute(self._head, {"run": run_id}).mappings().first()
        if row is None:
            raise NotFound("run", str(run_id))
        return row

    def get(self, run_id: RunId) -> Overview:
        with self._reading() as connection:
            row = _whole_row(connection, run_id)
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

    def list(self, where: RunQuery = EVERY_RUN, *, limit: int = 100, offset: int = 0) -> Sequence[Listed]:
        query = schema.run_rows.order_by(run.c.created_at.desc(), run.c.id).limit(limit).offset(offset)
        with self._reading() as connection:
            query = query.where(*asked.clauses(where, connection.dialect.name))
            found = map(rows.listed_from, connection.execute(query).mappings())
            return tuple(line for line in found if line is not None)

    def count(self, where: RunQuery = EVERY_RUN) -> int:
        query = select(func.count()).select_from(run)
        with self._reading() as connection:
            query = query.where(*asked.clauses(where, connection.dialect.name))
            return connection.scalar(query) or 0

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

    def touched(self, run_id: RunId, targets: Sequence[TargetId]) -> dict[TargetId, datetime]:
        """When each of these targets was last written; those that the run does not have are left out."""
        c = target.c
        query = select(c.id, c.updated_at).where(c.operation_run_id == run_id, c.id.in_(targets))
        with self._reading() as connection:
            return {TargetId(found): at for found, at in connection.execute(query)}

    def strays(self, run_id: RunId) -> Sequence[Stray]:
        query = select(stray).where(stray.c.operation_run_id == run_id)
        found = (rows.stray_from(row._mapping) for row in self._of_run(run_id, query))
        return tuple(sorted(found, key=lambda one: one.task_id))

    def journal(self, run_id: RunId, *, after: int = 0, limit: int | None = None) -> Sequence[JournalEntry]:
        c = journal.c
        query = select(journal).where(c.operation_run_id == run_id, c.number > after).order_by(c.number).limit(limit)
        return tuple(rows.entry_from(row._mapping) for row in self._of_run(run_id, query))

    def _of_run(self, run_id: RunId, query: Select[Any]) -> Sequence[Row[Any]]:
        with self._reading() as connection:
            require_run(connection, run_id)
            return connection.execute(query).all()

    # -- looking after the database --

    def check(self) -> Sequence[str]:
        """Recount every counter and cursor: one sentence per difference.

        Repairs nothing.  Cost: reads every target.
        """
        with self._reading() as connection:
            return (*self._damage(connection), *recount.differences(connection))

    def cautions(self) -> Sequence[str]:
        """What endangers the database though all of it fits: one sentence each, for whoever looks after its server."""
        return ()

    def _damage(self, connection: Connection) -> Sequence[str]:
        """What the database says of its own soundness."""
        return ()


def _whole_row(connection: Connection, run_id: RunId) -> RowMapping:
    row = connection.execute(_RUN, {"run": run_id}).mappings().first()
    if row is None:
        raise NotFound("run", str(run_id))
    return row


def require_run(connection: Connection, run_id: RunId) -> None:
    """Raises NotFound when there is no such run."""
    if connection.scalar(_RUN_ID, {"run": run_id}) is None:
        raise NotFound("run", str(run_id))


def _phase_rows(run_id: RunId, tallies: Sequence[Tally], targets: Iterable[Target]) -> list[rows.Columns]:
    """The counters of a new run, and the cursors that its targets amount to."""
    flying: dict[int, list[int]] = {}
    first: dict[int, int] = {}
    for found in targets:
        if found.status.holds_slot:
            flying.setdefault(found.phase, []).append(found.sequence)
        if is_new(found):
            first.setdefault(found.phase, found.sequence)
    return [
        {
            **rows.tally_columns(tally),
            "operation_run_id": run_id,
            "phase_index": index,
            "in_flight": flying.get(index, []),
            "next_seq": first.get(index, 0),
        }
        for index, tally in enumerate(tallies)
    ]

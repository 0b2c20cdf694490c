"""Retention: runs that ended long ago are removed with all that hangs on them, and kept in a file first where asked.

Only a run that is over goes: it has ended, every target is settled, and no stray is open.  A transaction removes a
bounded number of rows, so nobody waits long for it; a big run is taken apart in several.  The order is: its journal
from the beginning, its strays, its targets from the first on, each with its place in the counters of its phase, and
last the counters and the run.  Whatever was removed by then, what is left fits together, and the run is still one that
ended long ago: an interrupted removal is finished by the next one for which the run is old enough.

In the file stands one line for each row, in the order of removal, so the line of a run is its last.  The lines are on
the disk before the removal is committed.  When it fails in between they stand there once more the next time: a reader
takes one line for each key.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from io import FileIO
from pathlib import Path
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Column, Connection, RowMapping, Table, delete, func, or_, select, true, update

from opdispatch.errors import InvalidInput, Unavailable
from opdispatch.identity import RunId
from opdispatch.run import TERMINAL
from opdispatch.target import SETTLED, TargetStatus

from .columns import Document
from .schema import journal, phase, run, stray, target
from .store import SqlStore

BATCH: Final = 100
ROWS: Final = 1000
"""The most rows that one transaction removes, of all tables together, the counters and runs aside."""
SCHEMA: Final = "opdispatch/archive/v1"
_MICROSECOND: Final = timedelta(microseconds=1)
_EVER: Final = datetime.min.replace(tzinfo=UTC)
_Key = tuple[datetime, UUID]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What was removed, or would be.  Of a run that was begun earlier only the rest is counted."""

    runs: int = 0
    targets: int = 0
    entries: int = 0


def prune(
    store: SqlStore,
    older_than: timedelta,
    *,
    keep: int = 0,
    archive: Path | None = None,
    batch: int = BATCH,
    rows: int = ROWS,
    dry_run: bool = False,
) -> Pruned:
    """Remove the runs that ended longer ago than ``older_than``, by the store's clock, but not the ``keep`` last ones.

    ``archive`` is a file that they are appended to first, a JSON document per line; it is made (0600) where it is
    missing.  A transaction looks at ``batch`` runs at most and removes about ``rows`` rows.  A run that somebody holds
    is left for the next time.  ``dry_run`` counts and changes nothing, the file neither.

    Raises:
        InvalidInput: the archive cannot be used, or a bound is not above zero.
        Unavailable: the store or the archive cannot be written now; what was committed so far stays removed.
    """
    bounds = {"older_than": older_than.total_seconds(), "batch": batch, "rows": rows}
    for name, bound in bounds.items():
        if bound <= 0:
            raise InvalidInput.at(name, f"{bound:g} is not above zero")
    if keep < 0:
        raise InvalidInput.at("keep", f"{keep} is below zero")
    if archive is not None and any(own.exists() and archive.exists() and archive.samefile(own) for own in store.files):
        raise InvalidInput.at("archive", f"{archive} is a file of the store itself", "name another file")
    with store._reading() as connection:
        now = store._now(connection)
        ended = _ended(now - min(older_than, now - _EVER), keep)
        if dry_run:
            return _counted(connection, ended)
    with nullcontext() if archive is None else _Archive.opened(archive) as file:
        work = _Work(ended=ended, batch=batch, rows=rows, archive=file)
        while True:
            with store._writing() as connection:
                is_more = work.go_on(connection)
                if file is not None:
                    file.sync()
            if not is_more:
                return _pruned(work.counts)


# -- which --


def _ended(before: datetime, keep: int) -> Any:
    """Runs that ended long ago, without those that ended last; one that goes on has no end."""
    c = run.c
    is_over = c.status.in_(sorted(TERMINAL))
    old = is_over & (c.finished_at < before)
    if not keep:
        return old
    return old & c.id.not_in(select(c.id).where(is_over).order_by(c.finished_at.desc(), c.id.desc()).limit(keep))


def _unsettled() -> Any:
    """Targets of a phase that are not settled."""
    open_counts = [phase.c[status.value] for status in TargetStatus if status not in SETTLED]
    return sum(open_counts[1:], open_counts[0]) > 0


def _over(connection: Connection, run_ids: Sequence[UUID]) -> Sequence[UUID]:
    """Those of these ended runs that nothing is left to do for."""
    counted, strays = phase.c.operation_run_id, stray.c.operation_run_id
    busy = set(connection.scalars(select(counted).where(counted.in_(run_ids), _unsettled())))
    busy |= set(connection.scalars(select(strays).where(strays.in_(run_ids), stray.c.is_open == true())))
    return [run_id for run_id in run_ids if run_id not in busy]


def _counted(connection: Connection, which: Any) -> Pruned:
    ended = connection.scalars(select(run.c.id).where(which)).all()
    counts: Counter[Table] = Counter()
    for at in range(0, len(ended), BATCH):
        found = _over(connection, ended[at : at + BATCH])
        counts[run] += len(found)
        for table in (target, journal):
            owner = table.c.operation_run_id
            counts[table] += connection.scalar(select(func.count()).select_from(table).where(owner.in_(found))) or 0
    return _pruned(counts)


def _pruned(counts: Counter[Table]) -> Pruned:
    return Pruned(runs=counts[run], targets=counts[target], entries=counts[journal])


# -- the work --


@dataclass(slots=True, kw_only=True)
class _Work:
    ended: Any
    """The condition of the runs that are looked at."""
    batch: int
    rows: int
    archive: _Archive | None
    counts: Counter[Table] = field(default_factory=Counter)
    _done: _Key | None = None
    """The last run that was looked at: those before it are gone, or not to be removed."""

    def go_on(self, connection: Connection) -> bool:
        """One transaction; False when no run is left."""
        keys = self._locked(connection)
        over = set(_over(connection, [run_id for _, run_id in keys]))
        left = self.rows
        for key in keys:
            if key[1] in over:
                left -= self._take_apart(connection, RunId(key[1]), left)
                if left <= 0:
                    # Its rest, or at least its own row, is for the next transaction.
                    return True
            self._done = key
        return bool(keys)

    def _locked(self, connection: Connection) -> Sequence[_Key]:
        """The next runs, oldest first, held until the transaction ends; without those that somebody else holds.

        Whether such a run is over must be asked afterwards: only then can nothing change about it.
        """
        c = run.c
        query = select(c.finished_at, c.id).where(self.ended).order_by(c.finished_at, c.id).limit(self.batch)
        if self._done is not None:
            at, run_id = self._done
            query = query.where(or_(c.finished_at > at, (c.finished_at == at) & (c.id > run_id)))
        found: Any = connection.execute(query.with_for_update(skip_locked=True))
        return [(row.finished_at, row.id) for row in found]

    def _take_apart(self, connection: Connection, run_id: RunId, most: int) -> int:
        """Remove up to so many rows of a run, and with room left the run itself; the number of rows."""
        taken = 0
        for table, order in _PARTS.items():
            taken += self._take(connection, run_id, table, order, most - taken)
            if taken >= most:
                return taken
        for table, owner in _WHOLE.items():
            if self.archive is not None:
                for row in connection.execute(select(table).where(owner == run_id)).mappings():
                    self.archive.add(table, row)
            connection.execute(delete(table).where(owner == run_id))
        self.counts[run] += 1
        return taken + 1

    def _take(self, connection: Connection, run_id: RunId, table: Table, order: Column[Any], most: int) -> int:
        owner = table.c.operation_run_id
        wanted = table.c if self.archive is not None else [order, *(table.c[name] for name in _COUNTED.get(table, ()))]
        query = select(*wanted).where(owner == run_id).order_by(order).limit(most)
        found = connection.execute(query).mappings().all()
        if not found:
            return 0
        if self.archive is not None:
            for row in found:
                self.archive.add(table, row)
        connection.execute(delete(table).where(owner == run_id, order <= found[-1][order.name]))
        if table is target:
            _uncount(connection, run_id, found)
        self.counts[table] += len(found)
        return len(found)


_PARTS: Final[Mapping[Table, Column[Any]]] = {
    journal: journal.c.number,
    stray: stray.c.task_ref,
    target: target.c.sequence_index,
}
"""What a run is taken apart by, and in which order."""
_WHOLE: Final[Mapping[Table, Column[Any]]] = {phase: phase.c.operation_run_id, run: run.c.id}
"""What goes at once when nothing else is left, and whose rows are the run's."""
_COUNTED: Final[Mapping[Table, Sequence[str]]] = {target: ("phase_index", "status")}
"""What is told by the rows that are removed, beside their order."""


def _uncount(connection: Connection, run_id: RunId, targets: Sequence[RowMapping]) -> None:
    """Take targets out of the counters of their phases."""
    for (index, status), count in Counter((row["phase_index"], row["status"]) for row in targets).items():
        counter = phase.c[status]
        connection.execute(
            update(phase)
            .where(phase.c.operation_run_id == run_id, phase.c.phase_index == index)
            .values({counter: counter - count})
        )


# -- the file --


class _Archive:
    """A file that lines are appended to, those of a transaction together."""

    def __init__(self, path: Path, file: FileIO) -> None:
        self._path = path
        self._file = file
        self._lines: list[bytes] = []

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[_Archive]:
        """The file, for one process at a time.  Raises InvalidInput, Unavailable."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise InvalidInput.at("archive", f"{path}: {error.strerror}", "name a file that can be written") from error
        with FileIO(descriptor, "r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise Unavailable(f"archive {path}", "another process writes to it", "name another file") from error
            archive = cls(path, file)
            with archive._written():
                archive._begin()
            yield archive

    def _begin(self) -> None:
        # A line that was cut off by a full disk or a crash must not spoil the next one.
        if self._file.seek(0, os.SEEK_END):
            self._file.seek(-1, os.SEEK_END)
            if self._file.read(1) != b"\n":
                self._lines.append(b"\n")
        # The name of a new file is on the disk only when its directory is.
        directory = os.open(self._path.absolute().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def add(self, table: Table, row: RowMapping) -> None:
        """A line for a row."""
        values = {column.name: _plain(column, row[column.name]) for column in table.c}
        line = json.dumps({"schema": SCHEMA, "table": table.name, "row": values}, separators=(",", ":"))
        self._lines.append(line.encode() + b"\n")

    def sync(self) -> None:
        """Returns when all lines are on the disk."""
        data = b"".join(self._lines)
        self._lines.clear()
        with self._written():
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())

    @contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            detail, remedy = f"{error.strerror}", "make room or name another file; nothing of this step was removed"
            raise Unavailable(f"archive {self._path}", detail, remedy) from error


def _plain(column: Column[Any], value: Any) -> Any:
    """A value as JSON has it; a document that is none stays the text that it is."""
    match value:
        case datetime():
            return value.isoformat()
        case UUID():
            return str(value)
        case timedelta():
            return value // _MICROSECOND
        case str() if isinstance(column.type, Document):
            try:
                return json.loads(value)
            except ValueError:
                return value
        case _:
            return value

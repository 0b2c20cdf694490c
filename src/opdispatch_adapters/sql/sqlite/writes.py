"""The writes of one decision on SQLite: one statement per kind of change, repeated by the driver for each row."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import BindParameter, Connection, bindparam, func, insert, select, text, update
from sqlalchemy.dialects.sqlite import Insert
from sqlalchemy.dialects.sqlite import insert as upsert

from opdispatch.identity import RunId
from opdispatch.journal import JournalEntry
from opdispatch.tally import Tally
from opdispatch.target import Stray, TargetStatus

from .. import rows, schema
from ..changes import Changes, Moved, Writing
from ..schema import journal, phase, run, stray, target
from ..window import Cursors

_UNSTARTED: Final = "status IN ('pending', 'blocked')"
_RUN: Final[BindParameter[Any]] = bindparam("of_run")
_NOW: Final[BindParameter[Any]] = bindparam("now")

# Made once, as the queries are.
_IN_RUN: Final = target.c.operation_run_id == _RUN
_REARM: Final = (
    update(target)
    .where(_IN_RUN, text(schema.BLOCKED))
    .values(
        conflict_since=None,
        conflict_count=None,
        conflict_delay_us=None,
        retry_state=None,
        retry_at=bindparam("at"),
        retry_after=bindparam("at"),
        updated_at=_NOW,
    )
)
_SKIP: Final = (
    update(target)
    .where(_IN_RUN, text(_UNSTARTED))
    .values(
        retry_at=None,
        retry_after=None,
        retry_state=None,
        status=TargetStatus.SKIPPED.value,
        message=bindparam("why"),
        updated_at=_NOW,
    )
)
_TARGET: Final = update(target).where(
    _IN_RUN,
    target.c.id == bindparam("of_id"),
    target.c.fence == bindparam("of_fence"),
    target.c.attempt == bindparam("of_attempt"),
)
_PHASE: Final = update(phase).where(phase.c.operation_run_id == _RUN, phase.c.phase_index == bindparam("of_phase"))
_LAST: Final = select(func.coalesce(func.max(journal.c.number), 0)).where(journal.c.operation_run_id == _RUN)
_ENTRY: Final = insert(journal).values(number=_LAST.scalar_subquery() + 1)


def _upsert_stray() -> Insert:
    statement = upsert(stray)
    known = {column.name: statement.excluded[column.name] for column in stray.c if not column.primary_key}
    return statement.on_conflict_do_update(set_=known)


_STRAY: Final = _upsert_stray()


class SqliteWrites:
    """The statements of a decision (``changes.Writes``)."""

    def write(self, connection: Connection, writing: Writing) -> bool:
        run_id, changes = writing.run_id, writing.changes
        if changes is not None and not _write_changes(connection, run_id, changes, writing.now):
            return False
        if not _write_run(connection, writing):
            return False
        if writing.entry is not None:
            _write_entry(connection, writing.entry)
        return True


def _write_changes(connection: Connection, run_id: RunId, changes: Changes, now: datetime) -> bool:
    if changes.rearm_at is not None:
        connection.execute(_REARM, {"of_run": run_id, "at": changes.rearm_at, "now": now})
    if changes.skip is not None:
        connection.execute(_SKIP, {"of_run": run_id, "why": changes.skip, "now": now})
    if changes.strays:
        _write_strays(connection, run_id, changes.strays)
    targets, phases = changes.targets, changes.phases
    return (not targets or _write_targets(connection, run_id, targets, now)) and (
        not phases or _write_phases(connection, run_id, phases)
    )


def _write_targets(connection: Connection, run_id: RunId, targets: Sequence[Moved], now: datetime) -> bool:
    changed = [
        {
            **rows.target_columns(moved.after),
            "of_run": run_id,
            "of_id": moved.after.id,
            "of_fence": moved.before.fence,
            "of_attempt": moved.before.attempt,
            "updated_at": now,
        }
        for moved in targets
    ]
    return connection.execute(_TARGET, changed).rowcount == len(changed)


def _write_phases(connection: Connection, run_id: RunId, phases: Sequence[tuple[int, Tally, Cursors]]) -> bool:
    changed = [
        {
            **rows.tally_columns(tally),
            "of_run": run_id,
            "of_phase": index,
            "in_flight": cursors.in_flight,
            "next_seq": cursors.next,
        }
        for index, tally, cursors in phases
    ]
    return connection.execute(_PHASE, changed).rowcount == len(changed)


def _write_strays(connection: Connection, run_id: RunId, strays: Sequence[Stray]) -> None:
    connection.execute(_STRAY, [{**rows.stray_columns(found), "operation_run_id": run_id} for found in strays])


def _write_run(connection: Connection, writing: Writing) -> bool:
    changed: rows.Columns = {}
    if writing.changes is not None and writing.changes.run is not None:
        changed |= rows.run_columns(writing.changes.run)
    if writing.moves_wake:
        changed["wake_at"] = writing.wake_at
    if writing.clears_trouble:
        changed |= {"error_count": 0, "error_message": None, "error_at": None}
    if not changed:
        return True
    where = (run.c.id == writing.run_id, run.c.revision == writing.revision)
    return connection.execute(update(run).where(*where).values(**changed, updated_at=writing.now)).rowcount == 1


def _write_entry(connection: Connection, entry: JournalEntry) -> None:
    connection.execute(_ENTRY, {**rows.journal_columns(entry), "of_run": entry.run_id})

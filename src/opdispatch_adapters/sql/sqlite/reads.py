"""What a window needs, on SQLite: there is no way to the database to save, so each part is a query of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, exists, func, select, text, true

from opdispatch.errors import CorruptRecord
from opdispatch.identity import RunId, TargetId, TaskId
from opdispatch.target import Stray, Target

from .. import rows, schema
from ..schema import phase, run, stray, target
from ..window import Candidates, Cursors, Snapshot


def _targets(connection: Connection, query: Select[Any]) -> tuple[Target, ...]:
    found: Sequence[Row[Any]] = connection.execute(query).all()
    return tuple(rows.target_from(row) for row in found)


def _instant(run_id: RunId, found: object) -> datetime | None:
    """The earliest of many targets' instants.  Raises CorruptRecord for one that is none."""
    if found is None or isinstance(found, datetime):
        return found
    raise CorruptRecord(f"run {run_id}, column retry_at of a target", str(found))


def _strays(connection: Connection, *conditions: ColumnElement[bool]) -> tuple[Stray, ...]:
    found = connection.execute(select(stray).where(*conditions)).mappings()
    # In the order of Python's text, whatever the database's collation is.
    return tuple(sorted((rows.stray_from(row) for row in found), key=lambda one: one.task_id))


def _listed(values: Iterable[object]) -> ColumnElement[Any]:
    """These values as a one-column query: one parameter, however many they are."""
    array = json.dumps([value if isinstance(value, int) else str(value) for value in values])
    return select(func.json_each(array).table_valued("value").c.value).scalar_subquery()


class SqliteReads:
    """The queries of a window (``window.Reads``)."""

    def snapshot(self, connection: Connection, run_id: RunId) -> Snapshot | None:
        head = connection.execute(select(run.c.revision, run.c.decided_at).where(run.c.id == run_id)).first()
        if head is None:
            return None
        found = (
            connection.execute(select(phase).where(phase.c.operation_run_id == run_id).order_by(phase.c.phase_index))
            .mappings()
            .all()
        )
        tallies = tuple(rows.tally_from(row) for row in found)
        cursors = tuple(Cursors(in_flight=row["in_flight"], next=row["next_seq"]) for row in found)
        places = [sequence for row in found for sequence in row["in_flight"]]
        c = target.c
        flying = (
            schema.target_rows.where(c.operation_run_id == run_id, text(schema.IN_FLIGHT))
            .where(c.sequence_index.in_(_listed(places)))
            .order_by(c.sequence_index)
        )
        of_run = stray.c.operation_run_id == run_id
        return Snapshot(
            revision=head.revision,
            decided_at=head.decided_at,
            phases=tallies,
            cursors=cursors,
            in_flight=_targets(connection, flying),
            strays=_strays(connection, of_run, stray.c.is_open == true()),
            has_closed_strays=bool(connection.scalar(select(exists().where(of_run, stray.c.is_open != true())))),
        )

    def candidates(
        self, connection: Connection, run_id: RunId, phase: int, *, first: int, bound: int, blocked: bool, now: datetime
    ) -> Candidates:
        c = target.c
        here = (c.operation_run_id == run_id, c.phase_index == phase)
        waiting = text(schema.BLOCKED)
        new = schema.target_rows.where(*here, text(schema.NEW), c.sequence_index >= first)
        again = schema.target_rows.where(*here, text(schema.AGAIN))
        due = schema.target_rows.where(*here, waiting, c.retry_at <= now)
        later = select(func.min(c.retry_at, type_=c.retry_at.type)).where(*here, waiting, c.retry_at > now)
        return Candidates(
            new=_targets(connection, new.order_by(c.sequence_index).limit(bound)) if bound else (),
            again=_targets(connection, again.order_by(c.sequence_index).limit(bound)) if bound else (),
            due=_targets(connection, due.order_by(c.sequence_index).limit(bound)) if bound and blocked else (),
            next_retry=_instant(run_id, connection.scalar(later)) if blocked else None,
        )

    def named(self, connection: Connection, run_id: RunId, targets: Iterable[TargetId]) -> tuple[Target, ...]:
        c = target.c
        query = schema.target_rows.where(c.operation_run_id == run_id, c.id.in_(_listed(targets)))
        return _targets(connection, query.order_by(c.sequence_index))

    def strays(self, connection: Connection, run_id: RunId, tasks: Sequence[TaskId]) -> tuple[Stray, ...]:
        return _strays(connection, stray.c.operation_run_id == run_id, stray.c.task_ref.in_(_listed(tasks)))

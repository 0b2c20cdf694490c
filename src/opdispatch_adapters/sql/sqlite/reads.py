"""What a window needs, on SQLite: there is no way to the database to save, so each part is a query of its own."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Row,
    Select,
    bindparam,
    exists,
    func,
    select,
    text,
    true,
)

from opdispatch.errors import CorruptRecord
from opdispatch.identity import RunId, TargetId, TaskId
from opdispatch.target import Stray, Target

from .. import rows, schema
from ..schema import phase, run, stray, target
from ..window import Candidates, Cursors, Snapshot

_RUN: Final[BindParameter[Any]] = bindparam("run")


def _listed(name: str) -> ColumnElement[Any]:
    """The values of this parameter (``_list_of``) as a one-column query: one parameter, however many they are."""
    return select(func.json_each(bindparam(name)).table_valued("value").c.value).scalar_subquery()


def _list_of(values: Iterable[object]) -> str:
    return json.dumps([value if isinstance(value, int) else str(value) for value in values])


# Made once: to put a query together, and to find out that it was met before, takes longer than the file does.
_HEAD: Final = select(run.c.revision, run.c.decided_at).where(run.c.id == _RUN)
_PHASES: Final = select(phase).where(phase.c.operation_run_id == _RUN).order_by(phase.c.phase_index)
_OF_RUN: Final = schema.target_rows.where(target.c.operation_run_id == _RUN)
_FLYING: Final = (
    _OF_RUN.where(text(schema.IN_FLIGHT))
    .where(target.c.sequence_index.in_(_listed("places")))
    .order_by(target.c.sequence_index)
)
_NAMED: Final = _OF_RUN.where(target.c.id.in_(_listed("ids"))).order_by(target.c.sequence_index)

_STRAYS: Final = select(stray).where(stray.c.operation_run_id == _RUN)
_OPEN: Final = _STRAYS.where(stray.c.is_open == true())
_OF_TASKS: Final = _STRAYS.where(stray.c.task_ref.in_(_listed("tasks")))
_HAS_CLOSED: Final = select(exists().where(stray.c.operation_run_id == _RUN, stray.c.is_open != true()))

_OF_PHASE: Final = _OF_RUN.where(target.c.phase_index == bindparam("phase"))
_NOW: Final[BindParameter[Any]] = bindparam("now")


def _first(query: Select[Any]) -> Select[Any]:
    return query.order_by(target.c.sequence_index).limit(bindparam("bound"))


_NEW: Final = _first(_OF_PHASE.where(text(schema.NEW), target.c.sequence_index >= bindparam("first")))
_AGAIN: Final = _first(_OF_PHASE.where(text(schema.AGAIN)))
_DUE: Final = _first(_OF_PHASE.where(text(schema.BLOCKED), target.c.retry_at <= _NOW))
_NEXT_RETRY: Final = select(func.min(target.c.retry_at, type_=target.c.retry_at.type)).where(
    target.c.operation_run_id == _RUN,
    target.c.phase_index == bindparam("phase"),
    text(schema.BLOCKED),
    target.c.retry_at > _NOW,
)


def _targets(connection: Connection, query: Select[Any], asked: Mapping[str, Any]) -> tuple[Target, ...]:
    found: Sequence[Row[Any]] = connection.execute(query, asked).all()
    return tuple(rows.target_from(row) for row in found)


def _instant(run_id: RunId, found: object) -> datetime | None:
    """The earliest of many targets' instants.  Raises CorruptRecord for one that is none."""
    if found is None or isinstance(found, datetime):
        return found
    raise CorruptRecord(f"run {run_id}, column retry_at of a target", str(found))


def _strays(connection: Connection, query: Select[Any], asked: Mapping[str, Any]) -> tuple[Stray, ...]:
    found = connection.execute(query, asked).mappings().all()
    # In the order of Python's text, whatever the database's collation is.
    return tuple(sorted((rows.stray_from(row) for row in found), key=lambda one: one.task_id))


class SqliteReads:
    """The queries of a window (``window.Reads``)."""

    def snapshot(self, connection: Connection, run_id: RunId) -> Snapshot | None:
        asked: dict[str, Any] = {"run": run_id}
        head = connection.execute(_HEAD, asked).first()
        if head is None:
            return None
        found = connection.execute(_PHASES, asked).mappings().all()
        places = [sequence for row in found for sequence in row["in_flight"]]
        return Snapshot(
            revision=head.revision,
            decided_at=head.decided_at,
            phases=tuple(rows.tally_from(row) for row in found),
            cursors=tuple(Cursors(in_flight=row["in_flight"], next=row["next_seq"]) for row in found),
            in_flight=_targets(connection, _FLYING, {**asked, "places": _list_of(places)}),
            strays=_strays(connection, _OPEN, asked),
            has_closed_strays=bool(connection.scalar(_HAS_CLOSED, asked)),
        )

    def candidates(
        self, connection: Connection, run_id: RunId, phase: int, *, first: int, bound: int, blocked: bool, now: datetime
    ) -> Candidates:
        here = {"run": run_id, "phase": phase}
        few, due = {**here, "bound": bound}, {**here, "now": now}
        return Candidates(
            new=_targets(connection, _NEW, {**few, "first": first}) if bound else (),
            again=_targets(connection, _AGAIN, few) if bound else (),
            due=_targets(connection, _DUE, {**few, **due}) if bound and blocked else (),
            next_retry=_instant(run_id, connection.scalar(_NEXT_RETRY, due)) if blocked else None,
        )

    def named(self, connection: Connection, run_id: RunId, targets: Iterable[TargetId]) -> tuple[Target, ...]:
        return _targets(connection, _NAMED, {"run": run_id, "ids": _list_of(targets)})

    def strays(self, connection: Connection, run_id: RunId, tasks: Sequence[TaskId]) -> tuple[Stray, ...]:
        return _strays(connection, _OF_TASKS, {"run": run_id, "tasks": _list_of(tasks)})

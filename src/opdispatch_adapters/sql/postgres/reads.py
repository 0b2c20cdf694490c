"""What a window needs, on PostgreSQL: one statement for each part, bounded by the cursors.

The cursors are what a snapshot that somebody holds open cannot spoil: dead versions of rows stay in the indexes then,
and a scan that begins where the living begin does not meet them.  A limit alone bounds what is returned, and not what
is read.  No statement has an OR over two indexes, nor a join on a limited subquery, whose size a generic plan only
guesses.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Connection

from opdispatch.identity import RunId, TargetId, TaskId
from opdispatch.target import Blocked, Cancelling, Stray, Target

from .. import rows, schema
from ..schema import COUNTERS, TARGET_COLUMNS
from ..strict import instant_from
from ..window import Candidates, Cursors, Snapshot, is_new
from .arrays import array_of
from .driver import Fetch, fetch

_COLUMNS: Final = ", ".join(f"t.{name}" for name in TARGET_COLUMNS)
_NO_TARGET: Final = ", ".join("NULL" for _ in TARGET_COLUMNS)
_DELAYS: Final = tuple(TARGET_COLUMNS.index(name) for name in ("cancel_delay_us", "conflict_delay_us"))
_PHASE: Final = ("phase_index", *COUNTERS, "next_seq")
_STRAY: Final = (
    "json_build_object('task_ref', task_ref, 'target_id', target_id, 'cancel_due', cancel_due AT TIME ZONE 'UTC',"
    " 'cancel_delay_us', cancel_delay_us, 'missing_since', missing_since AT TIME ZONE 'UTC', 'is_open', is_open,"
    " 'message', message)"
)

SNAPSHOT: Final = f"""
WITH p AS MATERIALIZED (
  SELECT {", ".join(_PHASE)}, in_flight FROM operation_run_phase WHERE operation_run_id = %(run)s
)
SELECT r.revision, r.decided_at,
  (SELECT array_agg(ARRAY[{", ".join(_PHASE)}] ORDER BY phase_index) FROM p),
  (SELECT json_agg({_STRAY}) FROM operation_run_stray WHERE operation_run_id = %(run)s AND is_open),
  EXISTS (SELECT 1 FROM operation_run_stray WHERE operation_run_id = %(run)s AND NOT is_open),
  {_NO_TARGET}
FROM operation_run r WHERE r.id = %(run)s
UNION ALL
SELECT NULL, NULL, NULL, NULL, NULL, {_COLUMNS}
FROM operation_run_target t
WHERE t.operation_run_id = %(run)s AND t.{schema.IN_FLIGHT}
  AND t.sequence_index = ANY(ARRAY(SELECT unnest(in_flight) FROM p))
"""  # noqa: S608  # constants
_HEADS: Final = 5

PENDING: Final = f"""
(
  SELECT {_COLUMNS} FROM operation_run_target t
  WHERE t.operation_run_id = %(run)s AND t.phase_index = %(phase)s AND t.sequence_index >= %(first)s
    AND t.status = 'pending' AND t.attempt = 1
  ORDER BY t.sequence_index LIMIT %(bound)s
) UNION ALL (
  SELECT {_COLUMNS} FROM operation_run_target t
  WHERE t.operation_run_id = %(run)s AND t.phase_index = %(phase)s AND t.{schema.AGAIN}
  ORDER BY t.sequence_index LIMIT %(bound)s
)
"""  # noqa: S608  # constants

# The sum keeps a planner from walking over the whole run in the order that is asked for, to save sorting a few rows.
CANDIDATES: Final = f"""
SELECT NULL::timestamptz AS next_retry, p.* FROM ({PENDING}) p
UNION ALL
SELECT NULL::timestamptz, d.* FROM (
  SELECT {_COLUMNS} FROM operation_run_target t
  WHERE t.operation_run_id = %(run)s AND t.phase_index = %(phase)s AND t.{schema.BLOCKED} AND t.retry_at <= %(now)s
  ORDER BY t.sequence_index + 0 LIMIT %(bound)s
) d
UNION ALL
SELECT (
  SELECT min(t.retry_at) FROM operation_run_target t
  WHERE t.operation_run_id = %(run)s AND t.phase_index = %(phase)s AND t.{schema.BLOCKED} AND t.retry_at > %(now)s
), {_NO_TARGET}
"""  # noqa: S608  # constants

# Written so that no index by the run can serve: a planner that knows of no rows might read the whole run by it.
NAMED: Final = f"""
SELECT {_COLUMNS} FROM operation_run_target t
WHERE t.id = ANY(%(ids)s::uuid[]) AND t.operation_run_id IS NOT DISTINCT FROM %(run)s
"""  # noqa: S608  # constants

STRAYS: Final = f"""
SELECT json_agg({_STRAY}) FROM operation_run_stray
WHERE operation_run_id = %(run)s AND task_ref = ANY(%(tasks)s::text[])
"""  # noqa: S608  # constants


def _target(row: Sequence[Any]) -> Target:
    """A target of a row as the driver gives it: a wait is a number of microseconds there."""
    if row[_DELAYS[0]] is not None or row[_DELAYS[1]] is not None:
        row = [
            timedelta(microseconds=value) if index in _DELAYS and value is not None else value
            for index, value in enumerate(row)
        ]
    return rows.target_from(row)


def _in_order(targets: Iterable[Target]) -> tuple[Target, ...]:
    return tuple(sorted(targets, key=lambda target: target.sequence))


def _strays(document: str | None) -> tuple[Stray, ...]:
    found = [] if document is None else [_stray(pairs) for pairs in json.loads(document)]
    return tuple(sorted(found, key=lambda stray: stray.task_id))


def _stray(pairs: dict[str, Any]) -> Stray:
    missing_since = pairs["missing_since"]
    return Stray(
        task_id=TaskId(pairs["task_ref"]),
        target_id=TargetId(UUID(pairs["target_id"])),
        cancelling=Cancelling(
            due=instant_from(f"{pairs['cancel_due']}Z"), delay=timedelta(microseconds=pairs["cancel_delay_us"])
        ),
        missing_since=None if missing_since is None else instant_from(f"{missing_since}Z"),
        is_open=pairs["is_open"],
        message=pairs["message"],
    )


def _candidates(targets: Iterable[Target], next_retry: datetime | None) -> Candidates:
    new: list[Target] = []
    again: list[Target] = []
    due: list[Target] = []
    for found in targets:
        (new if is_new(found) else due if isinstance(found.state, Blocked) else again).append(found)
    return Candidates(new=_in_order(new), again=_in_order(again), due=_in_order(due), next_retry=next_retry)


class PostgresReads:
    """The queries of a window (``window.Reads``)."""

    def __init__(self, fetch: Fetch = fetch) -> None:
        self._fetch = fetch

    def snapshot(self, connection: Connection, run_id: RunId) -> Snapshot | None:
        head: Sequence[Any] | None = None
        flying: list[Target] = []
        for row in self._fetch(connection, SNAPSHOT, {"run": run_id}):
            if row[0] is None:
                flying.append(_target(row[_HEADS:]))
            else:
                head = row
        if head is None:
            return None
        revision, decided_at, phases, strays, has_closed, *_ = head
        counted = [dict(zip(_PHASE, numbers, strict=True)) for numbers in phases or ()]
        in_flight = _in_order(flying)
        return Snapshot(
            revision=revision,
            decided_at=decided_at,
            phases=tuple(rows.tally_from(numbers) for numbers in counted),
            cursors=tuple(
                Cursors(in_flight=tuple(t.sequence for t in in_flight if t.phase == index), next=numbers["next_seq"])
                for index, numbers in enumerate(counted)
            ),
            in_flight=in_flight,
            strays=_strays(strays),
            has_closed_strays=has_closed,
        )

    def candidates(
        self, connection: Connection, run_id: RunId, phase: int, *, first: int, bound: int, blocked: bool, now: datetime
    ) -> Candidates:
        asked = {"run": run_id, "phase": phase, "first": first, "bound": bound}
        if not blocked:
            return _candidates(map(_target, self._fetch(connection, PENDING, asked)), None)
        found: list[Target] = []
        next_retry: datetime | None = None
        for retry_at, *row in self._fetch(connection, CANDIDATES, {**asked, "now": now}):
            if row[0] is None:
                next_retry = retry_at
            else:
                found.append(_target(row))
        return _candidates(found, next_retry)

    def named(self, connection: Connection, run_id: RunId, targets: Iterable[TargetId]) -> tuple[Target, ...]:
        asked = {"run": run_id, "ids": array_of(targets)}
        return _in_order(map(_target, self._fetch(connection, NAMED, asked)))

    def strays(self, connection: Connection, run_id: RunId, tasks: Sequence[TaskId]) -> tuple[Stray, ...]:
        asked = {"run": run_id, "tasks": array_of(tasks)}
        ((found,),) = self._fetch(connection, STRAYS, asked)
        return _strays(found)

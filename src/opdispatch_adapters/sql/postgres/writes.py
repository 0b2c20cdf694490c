"""The writes of one decision on PostgreSQL: one statement, whose parts change many rows each.

There is a part per kind of change.  Three kinds are what nearly every target goes through, and write only what they
change: a claim, the record of its task, its end.  Whatever else happens to a target is written whole.  Each part finds
its rows by their places in the run, and no others, and leaves alone a row that is not as it was loaded; the counts at
the end tell.  What is found is joined to what is given by a hash (``engine`` rules nested loops out): a planner that
sees neither how many rows are given nor how many are found takes both for few, and would compare each with each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, LiteralString

from sqlalchemy import Connection

from opdispatch.identity import RunId, TaskId
from opdispatch.tally import Tally
from opdispatch.target import Blocked, Claimed, Pending, Settled, Stray, Submitted, Target

from .. import rows
from ..changes import Changes, Moved, Writing
from ..ids import bytes_of_uuids
from ..schema import COUNTERS
from ..window import Cursors
from .arrays import array_of, numbers_of, texts_of
from .driver import fetch
from .settings import CHANNEL

_MICROSECOND: Final = timedelta(microseconds=1)
_Arrays = Callable[[Sequence[Target]], Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One kind of change of targets.

    ``arrays`` are the columns that differ from row to row, with their types; ``sets`` is what is assigned, from them
    (``u.column``), from parameters, or from what stood there.
    """

    name: LiteralString
    arrays: tuple[tuple[str, LiteralString], ...]
    sets: LiteralString

    @property
    def sql(self) -> str:
        names = ("seq", "was_fence", "was_attempt", *(name for name, _ in self.arrays))
        kinds = ("int[]", "int[]", "int[]", *(kind for _, kind in self.arrays))
        given = ", ".join(f"%({self.name}_{name})s::{kind}" for name, kind in zip(names, kinds, strict=True))
        return f"""{self.name} AS (
  UPDATE operation_run_target t SET {self.sets}, updated_at = %(now)s
  FROM unnest({given}) AS u({", ".join(names)})
  WHERE t.operation_run_id = %(run)s AND t.sequence_index = ANY(%({self.name}_seq)s::int[])
    AND t.sequence_index = u.seq AND t.fence = u.was_fence AND t.attempt = u.was_attempt
  RETURNING 1
)"""  # noqa: S608  # constants

    def parameters(self, moved: Sequence[Moved], arrays: _Arrays | None) -> dict[str, str]:
        """The parameters for these targets; ``arrays`` gives those of this kind's own columns, where there are any."""
        found = {
            "seq": numbers_of([after.sequence for _, after in moved]),
            "was_fence": numbers_of([before.fence for before, _ in moved]),
            "was_attempt": numbers_of([before.attempt for before, _ in moved]),
            **(arrays([after for _, after in moved]) if arrays is not None else {}),
        }
        return {f"{self.name}_{name}": array for name, array in found.items()}


_NO_WAITS: Final[LiteralString] = "lease_until = NULL, retry_at = NULL, retry_after = NULL, retry_state = NULL"

CLAIMED: Final = _Part(
    name="claimed",
    arrays=(),
    sets="status = 'claimed', fence = t.fence + 1, message = %(claim)s, lease_until = %(lease)s, retry_at = NULL,"
    " retry_after = %(lease)s, retry_state = NULL",
)
SUBMITTED: Final = _Part(
    name="submitted",
    arrays=(("task_ref", "text[]"), ("task_id", "uuid[]")),
    sets="status = 'submitted', task_ref = u.task_ref, task_id = u.task_id, message = %(submission)s,"
    f" conflict_since = NULL, conflict_count = NULL, conflict_delay_us = NULL, {_NO_WAITS}",
)
SETTLED: Final = _Part(
    name="settled",
    arrays=(("status", "text[]"), ("message", "text[]")),
    sets="status = u.status, message = u.message, missing_since = NULL, cancel_due = NULL, cancel_delay_us = NULL,"
    f" {_NO_WAITS}",
)
_WHOLE: Final[tuple[tuple[str, LiteralString], ...]] = (
    ("status", "text[]"),
    ("message", "text[]"),
    ("attempt", "int[]"),
    ("fence", "int[]"),
    ("lease_until", "timestamptz[]"),
    ("retry_at", "timestamptz[]"),
    ("task_ref", "text[]"),
    ("missing_since", "timestamptz[]"),
    ("cancel_due", "timestamptz[]"),
    ("cancel_delay_us", "bigint[]"),
    ("conflict_since", "timestamptz[]"),
    ("conflict_count", "int[]"),
    ("conflict_delay_us", "bigint[]"),
    ("task_id", "uuid[]"),
    ("retry_after", "timestamptz[]"),
    ("retry_state", "jsonb[]"),
)
WHOLE: Final = _Part(
    name="whole",
    arrays=_WHOLE,
    sets="status = u.status, message = u.message, attempt = u.attempt, fence = u.fence, lease_until = u.lease_until,"
    " retry_at = u.retry_at, task_ref = u.task_ref, missing_since = u.missing_since, cancel_due = u.cancel_due,"
    " cancel_delay_us = u.cancel_delay_us, conflict_since = u.conflict_since, conflict_count = u.conflict_count,"
    " conflict_delay_us = u.conflict_delay_us, task_id = u.task_id, retry_after = u.retry_after,"
    " retry_state = u.retry_state",
)

_SQL_OF: Final = {part.name: part.sql for part in (CLAIMED, SUBMITTED, SETTLED, WHOLE)}

_PHASE: Final = (*COUNTERS, "next_seq")
PHASES: Final = f"""phases AS (
  UPDATE operation_run_phase p SET {", ".join(f"{name} = u.{name}" for name in _PHASE)}, in_flight = u.in_flight::int[]
  FROM unnest(%(phase_index)s::int[], %(phase_in_flight)s::text[],
      {", ".join(f"%(phase_{name})s::int[]" for name in _PHASE)})
    AS u(phase_index, in_flight, {", ".join(_PHASE)})
  WHERE p.operation_run_id = %(run)s AND p.phase_index = u.phase_index
  RETURNING 1
)"""  # noqa: S608  # constants

_RUN: Final = (
    "status",
    "status_reason",
    "status_message",
    "current_phase_index",
    "opened_phase",
    "operator_hold",
    "conflict_hold",
    "accepted",
    "resumed_at",
    "decided_at",
    "started_at",
    "finished_at",
    "revision",
)
_GUARD: Final = "WHERE id = %(run)s AND revision = %(was_revision)s RETURNING 1"
_TROUBLE: Final = "error_count = 0, error_message = NULL, error_at = NULL"

ENTRY: Final = """entry AS (
  INSERT INTO operation_run_journal
    (operation_run_id, number, at, actor, command_id, command, reply, observations, steps, held_back, limits, digest)
  SELECT %(run)s, coalesce(
      (SELECT max(number) FROM operation_run_journal WHERE operation_run_id = %(run)s), 0) + 1,
    %(entry_at)s, %(entry_actor)s, %(entry_command_id)s, %(entry_command)s::jsonb, %(entry_reply)s::jsonb,
    %(entry_observations)s::json, %(entry_steps)s::json, %(entry_held_back)s::jsonb, %(entry_limits)s::jsonb,
    %(entry_digest)s
  RETURNING 1
)"""

REARM: Final = """
UPDATE operation_run_target SET retry_at = %(at)s, retry_after = %(at)s, retry_state = NULL, conflict_since = NULL,
  conflict_count = NULL, conflict_delay_us = NULL, updated_at = %(now)s
WHERE operation_run_id = %(run)s AND lane = 1
"""
SKIP: Final = """
UPDATE operation_run_target SET status = 'skipped', message = %(message)s, retry_at = NULL, retry_after = NULL,
  retry_state = NULL, updated_at = %(now)s
WHERE operation_run_id = %(run)s AND status IN ('pending', 'blocked')
"""
UPSERT_STRAYS: Final = """
INSERT INTO operation_run_stray
  (operation_run_id, task_ref, target_id, cancel_due, cancel_delay_us, missing_since, is_open, message)
SELECT %(run)s, u.* FROM unnest(%(task_ref)s::text[], %(target_id)s::uuid[], %(cancel_due)s::timestamptz[],
  %(cancel_delay_us)s::bigint[], %(missing_since)s::timestamptz[], %(is_open)s::bool[], %(message)s::text[]) AS u
ON CONFLICT (operation_run_id, task_ref) DO UPDATE SET target_id = excluded.target_id,
  cancel_due = excluded.cancel_due, cancel_delay_us = excluded.cancel_delay_us,
  missing_since = excluded.missing_since, is_open = excluded.is_open, message = excluded.message
"""


class PostgresWrites:
    """The statement of a decision (``changes.Writes``)."""

    def write(self, connection: Connection, writing: Writing) -> bool:
        statement = _Statement(writing)
        if writing.changes is not None:
            _write_cohort(connection, writing.run_id, writing.changes, writing.now)
            statement.add_changes(writing.changes)
        statement.add_run()
        statement.add_entry()
        return statement.execute(connection)


def _write_cohort(connection: Connection, run_id: RunId, changes: Changes, now: datetime) -> None:
    """What is about any number of rows, and strays, which are few: statements of their own, before the others."""
    about = {"run": run_id, "now": now}
    if changes.rearm_at is not None:
        fetch(connection, REARM, {**about, "at": changes.rearm_at})
    if changes.skip is not None:
        fetch(connection, SKIP, {**about, "message": changes.skip})
    if changes.strays:
        fetch(connection, UPSERT_STRAYS, {"run": run_id, **_stray_arrays(changes.strays)})


def _stray_arrays(strays: Sequence[Stray]) -> dict[str, str]:
    columns = [rows.stray_columns(stray) for stray in strays]
    found = {name: array_of([_plain(row[name]) for row in columns]) for name in columns[0]}
    found["is_open"] = "{" + ",".join(str(stray.is_open) for stray in strays) + "}"
    return found


def _plain(value: Any) -> Any:
    return value // _MICROSECOND if isinstance(value, timedelta) else value


class _Statement:
    """The parts of one statement, and what each must have changed."""

    def __init__(self, writing: Writing) -> None:
        self._writing = writing
        self._parts: list[str] = []
        self._expected: list[tuple[str, int]] = []
        self._parameters: dict[str, Any] = {"run": writing.run_id, "now": writing.now}

    def _add(self, name: str, sql: str, expected: int, parameters: dict[str, Any]) -> None:
        self._parts.append(sql)
        self._expected.append((name, expected))
        self._parameters |= parameters

    def add_changes(self, changes: Changes) -> None:
        for part, moved in _sorted_out(changes):
            self._add(part.name, _SQL_OF[part.name], len(moved), part.parameters(moved, _ARRAYS_OF.get(part.name)))
            if part is CLAIMED:
                claim = moved[0].after
                lease = claim.state.lease_until if isinstance(claim.state, Claimed) else None
                self._parameters |= {"lease": lease, "claim": claim.message}
            elif part is SUBMITTED:
                self._parameters |= {"submission": moved[0].after.message}
        if changes.phases:
            self._add("phases", PHASES, len(changes.phases), _phase_arrays(changes.phases))

    def add_run(self) -> None:
        writing = self._writing
        run = writing.changes.run if writing.changes is not None else None
        sets: list[str] = []
        given: dict[str, Any] = {"was_revision": writing.revision}
        if run is not None:
            columns = rows.run_columns(run)
            sets += [f"{name} = %(run_{name})s" for name in _RUN]
            given |= {f"run_{name}": columns[name] for name in _RUN}
        if writing.moves_wake:
            sets.append("wake_at = %(wake_at)s")
            given["wake_at"] = writing.wake_at
        if writing.clears_trouble:
            sets.append(_TROUBLE)
        if sets:
            sql = f"run AS (UPDATE operation_run SET {', '.join(sets)}, updated_at = %(now)s {_GUARD})"  # noqa: S608
            self._add("run", sql, 1, given)

    def add_entry(self) -> None:
        entry = self._writing.entry
        if entry is not None:
            columns = {f"entry_{name}": value for name, value in rows.journal_columns(entry).items()}
            self._add("entry", ENTRY, 1, columns)

    def execute(self, connection: Connection) -> bool:
        """False when a part did not find each of its rows as it was loaded."""
        if not self._parts:
            return True
        asked = [f"(SELECT count(*) FROM {name})" for name, _ in self._expected]  # noqa: S608  # names of ours
        if self._writing.announces:
            asked.append(f"pg_notify('{CHANNEL}', %(run)s::text)")
        sql = f"WITH {', '.join(self._parts)} SELECT {', '.join(asked)}"
        (found,) = fetch(connection, sql, self._parameters)
        return all(count == expected for count, (_, expected) in zip(found, self._expected, strict=False))


def _sorted_out(changes: Changes) -> list[tuple[_Part, list[Moved]]]:
    """The targets by the part that writes them.  After a whole-run change all are written whole."""
    found: dict[str, list[Moved]] = {}
    for moved in changes.targets:
        part = WHOLE if changes.has_cohort else _part_of(moved, found)
        found.setdefault(part.name, []).append(moved)
    return [(part, found[part.name]) for part in (CLAIMED, SUBMITTED, SETTLED, WHOLE) if part.name in found]


def _part_of(moved: Moved, found: dict[str, list[Moved]]) -> _Part:
    before, after = moved
    state, kind = after.state, type(after.state)
    if after.attempt != before.attempt:
        return WHOLE
    if kind is Claimed:
        plain = after.fence == before.fence + 1 and after.conflict is before.conflict
        alike = plain and isinstance(before.state, _CLAIMABLE) and _alike(after, found.get("claimed"))
        return CLAIMED if alike else WHOLE
    if after.fence != before.fence:
        return WHOLE
    if isinstance(state, Submitted):
        plain = state.missing_since is None and state.cancelling is None and after.conflict is None
        alike = plain and isinstance(before.state, _SUBMITTABLE) and _alike(after, found.get("submitted"))
        return SUBMITTED if alike else WHOLE
    plain = kind is Settled and after.conflict is before.conflict
    return SETTLED if plain and after.task_id == before.task_id else WHOLE


_CLAIMABLE: Final = (Pending, Blocked, Claimed)
_SUBMITTABLE: Final = (Claimed, Blocked)


def _alike(after: Target, others: list[Moved] | None) -> bool:
    """True when the target has the same message, and the same lease, as the others of its part: they are told once."""
    if not others:
        return True
    other = others[0].after
    same_lease = not isinstance(after.state, Claimed) or after.state == other.state
    return same_lease and after.message == other.message


def _task_arrays(targets: Sequence[Target]) -> dict[str, str]:
    tasks = [target.task_id or "" for target in targets]
    refs = texts_of(tasks)
    if bytes_of_uuids(tasks) is not None:
        return {"task_ref": refs, "task_id": refs}
    return {"task_ref": refs, "task_id": array_of([rows.uuid_or_none(TaskId(task)) for task in tasks])}


def _settled_arrays(targets: Sequence[Target]) -> dict[str, str]:
    return {
        "status": texts_of([target.state.status.value for target in targets]),
        "message": texts_of([target.message for target in targets]),
    }


def _whole_arrays(targets: Sequence[Target]) -> dict[str, str]:
    columns = [rows.target_columns(target) for target in targets]
    return {name: array_of([_plain(row[name]) for row in columns]) for name, _ in _WHOLE}


_ARRAYS_OF: Final[dict[str, _Arrays]] = {
    SUBMITTED.name: _task_arrays,
    SETTLED.name: _settled_arrays,
    WHOLE.name: _whole_arrays,
}


def _phase_arrays(phases: Sequence[tuple[int, Tally, Cursors]]) -> dict[str, str]:
    numbers = [{**rows.tally_columns(tally), "next_seq": at.next} for _, tally, at in phases]
    arrays = {f"phase_{name}": numbers_of([row[name] for row in numbers]) for name in _PHASE}
    # Each phase has as many in flight as it has: a list of lists of any length is a list of their texts.
    arrays["phase_in_flight"] = array_of([numbers_of(at.in_flight) for _, _, at in phases])
    return {**arrays, "phase_index": numbers_of([index for index, _, _ in phases])}

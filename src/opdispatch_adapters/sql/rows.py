"""Rows and values: free functions from a run, a target or a stray to its columns and back.

Reading raises CorruptRecord for a row that cannot be a value of the core; writing keeps the mirrors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar
from uuid import UUID

from sqlalchemy import Boolean, Column, ColumnElement, Integer, RowMapping, String, Text

from opdispatch.action import CancelTask, SubmitTask
from opdispatch.errors import CorruptRecord, InvalidInput
from opdispatch.identity import RunId, TargetId, TaskId
from opdispatch.journal import JournalEntry
from opdispatch.observation import storable
from opdispatch.plan import NewRun
from opdispatch.policy.conflict import LONGEST
from opdispatch.ports import Listed, Trouble
from opdispatch.rollout import Rollout
from opdispatch.run import Run, RunStatus, StatusReason
from opdispatch.tally import Tally
from opdispatch.target import (
    Blocked,
    Cancelling,
    Claimed,
    Conflict,
    Pending,
    Settled,
    Stray,
    Submitted,
    Target,
    TargetState,
    TargetStatus,
)

from . import documents, rollout_documents, schema, strict
from .columns import Document, Id, Instant, Microseconds
from .schema import COUNTERS

_T = TypeVar("_T")
_UUID_LENGTH = 36
Columns = dict[str, Any]
NamedRow = RowMapping | Mapping[str, Any]
"""A row by the names of its columns, as SQLAlchemy gives it or as the driver's was named."""

# -- what a column may hold --

_MOST: Final = 2**31 - 2
"""The largest number in a column; one more can still be written."""
_LATEST: Final = datetime(9000, 1, 1, tzinfo=UTC)
"""Later instants lead out of the calendar once a wait is added; those are at most a century."""
_EARLIEST: Final = datetime(1, 1, 1, tzinfo=UTC)
_KINDS: Final[Mapping[type[Any], tuple[type[Any], str, Any, Any]]] = {
    Instant: (datetime, "an instant before the year 9000", _EARLIEST, _LATEST),
    Id: (UUID, "a UUID", None, None),
    Microseconds: (timedelta, f"a wait of at most {LONGEST.days} days", timedelta(microseconds=1), LONGEST),
    Boolean: (bool, "true or false", None, None),
    Integer: (int, f"a number of 0 to {_MOST}", 0, _MOST),
    String: (str, "text", None, None),
    Text: (str, "text", None, None),
    Document: (str, "text", None, None),
}
"""By the type of a column: the class of its values, how that is called, and the bounds where there are some."""


@dataclass(frozen=True, slots=True)
class _Kind:
    name: str
    of: type[Any]
    called: str
    low: Any
    high: Any
    is_nullable: bool

    def wrong(self, value: object) -> str | None:
        """What is wrong with a value; None when nothing is."""
        if value is None:
            return None if self.is_nullable else "it is missing"
        if isinstance(value, strict.Unread):
            return value.why
        if not isinstance(value, self.of) or (self.of is int and isinstance(value, bool)):
            return f"{strict.shown(value)} is not {self.called}"
        if self.low is not None and not self.low <= value <= self.high:
            return f"{strict.shown(str(value))} is not {self.called}"
        if isinstance(value, str) and not _is_unicode(value):
            return f"{strict.shown(value)} is not Unicode text"
        return None


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kinds_of(columns: Iterable[ColumnElement[Any]]) -> tuple[_Kind, ...]:
    return tuple(
        _Kind(column.name, *_KINDS[type(column.type)], is_nullable=bool(column.nullable))
        for column in columns
        if isinstance(column, Column) and type(column.type) in _KINDS
    )


_RUN: Final = _kinds_of(schema.head_rows.selected_columns)
_PHASE: Final = _kinds_of(schema.phase.c)
_STRAY: Final = _kinds_of(schema.stray.c)
_JOURNAL: Final = _kinds_of(schema.journal.c)
_TROUBLE: Final = tuple(
    replace(kind, is_nullable=kind.name == "quarantined_at")
    for kind in _RUN
    if kind.name in ("error_count", "error_message", "error_at", "quarantined_at")
)
_STATUSES: Final = frozenset(status.value for status in RunStatus)
_UNTOLD: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""Stands for an instant of a listing that cannot be read."""
_TARGET: Final = _kinds_of(schema.target_rows.selected_columns)
_TARGET_BOUNDS: Final = tuple((index, k.low, k.high) for index, k in enumerate(_TARGET) if k.low is not None)
_TARGET_SHAPES: Final[dict[tuple[type[Any], ...], tuple[tuple[int, Any, Any], ...]]] = {}
"""The types of the values of rows that were found to be sound, and the bounds of those that have some: there are a few
shapes, and most rows are quickly compared."""


def _check(what: str, kinds: Iterable[_Kind], row: Mapping[str, Any] | RowMapping) -> None:
    """Raises CorruptRecord for a value that its column cannot mean."""
    for kind in kinds:
        if kind.name in row:
            found = kind.wrong(row[kind.name])
            if found is not None:
                raise CorruptRecord(f"{what}, column {kind.name}", found)


def _named(value: object) -> str:
    """An id or a number as a message names its row by it, whatever it is."""
    return str(value) if isinstance(value, UUID | int) else strict.shown(value)


def _check_target(row: Sequence[Any]) -> None:
    shape = tuple(map(type, row))
    bounds = _TARGET_SHAPES.get(shape)
    if bounds is not None:
        for index, low, high in bounds:
            if not low <= row[index] <= high:
                break
        else:
            return
    for kind, value in zip(_TARGET, row, strict=True):
        found = kind.wrong(value)
        if found is not None:
            raise CorruptRecord(f"run {_named(row[1])}, target {_named(row[0])}, column {kind.name}", found)
    _TARGET_SHAPES[shape] = tuple(bound for bound in _TARGET_BOUNDS if row[bound[0]] is not None)


def _value(what: str, make: Callable[[], _T]) -> _T:
    try:
        return make()
    except (InvalidInput, ValueError, TypeError) as error:
        raise CorruptRecord(what, strict.brief(str(error))) from error


# -- runs --


def run_columns(run: Run) -> Columns:
    """What a decision can change of a run."""
    return {
        "status": run.status.value,
        "status_reason": run.status_reason.value,
        "status_message": run.status_message,
        "current_phase_index": run.phase,
        "opened_phase": run.opened,
        "operator_hold": run.operator_hold,
        "conflict_hold": run.conflict_hold,
        "accepted": documents.accepted_text(run.accepted),
        "resumed_at": run.resumed_at,
        "decided_at": run.decided_at,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "revision": run.revision,
    }


def new_run_columns(new: NewRun, now: datetime) -> Columns:
    """The whole row of a new run, due at once."""
    run, rollout = new.run, new.run.rollout
    return {
        **run_columns(run),
        "id": run.id,
        "name": run.name,
        "description": rollout.description or None,
        "selector": rollout_documents.selector_text(rollout),
        "options": rollout_documents.options_text(rollout),
        "operation_template": rollout_documents.template_text(rollout),
        "operation_type": rollout.operation.type,
        "operation_code": rollout.operation.code,
        "created_at": run.created_at,
        "updated_at": now,
        "total_phases": run.phases,
        "command_id": new.command_id,
        "actor": new.actor,
        "wake_at": now,
        "error_count": 0,
    }


def rollout_of(row: RowMapping) -> Rollout:
    """The rollout that a row's documents tell.  Raises CorruptRecord."""
    return rollout_documents.rollout_from(
        f"run {_named(row['id'])}",
        name=row["name"],
        description=row["description"] or "",
        selector=row["selector"],
        options=row["options"],
        template=row["operation_template"],
    )


def run_from(row: RowMapping) -> Run:
    """The run of a whole row.  Raises CorruptRecord."""
    return run_with(row, rollout_of(row))


def status_from(row: NamedRow) -> RunStatus:
    """The status that a row of ``schema.head_rows`` tells.  Raises CorruptRecord."""
    what = f"run {_named(row['id'])}"
    _check(what, _RUN, row)
    return _value(what, lambda: RunStatus(row["status"]))


def counted_errors(error_count: object, quarantined_at: object) -> tuple[int, datetime | None]:
    """How many errors were counted, and since when the run is in quarantine; none where that cannot be read, so that
    one more can be recorded."""
    count = error_count if type(error_count) is int and 0 <= error_count < _MOST else 0
    return count, quarantined_at if isinstance(quarantined_at, datetime) else None


def run_with(row: NamedRow, rollout: Rollout) -> Run:
    """The run of a row whose rollout is known.  Raises CorruptRecord."""
    what = f"run {row['id']}"
    _check(what, _RUN, row)
    if row["opened_phase"] >= max(row["total_phases"], 1):
        raise CorruptRecord(f"{what}, column opened_phase", f"it has no phase {row['opened_phase']}")
    accepted = documents.accepted_from(f"{what}, column accepted", row["accepted"])
    return _value(
        what,
        lambda: Run(
            id=RunId(row["id"]),
            name=row["name"],
            rollout=rollout,
            phases=row["total_phases"],
            created_at=row["created_at"],
            status=RunStatus(row["status"]),
            status_reason=StatusReason(row["status_reason"]),
            status_message=row["status_message"] or "",
            phase=row["current_phase_index"],
            opened=row["opened_phase"],
            operator_hold=row["operator_hold"],
            conflict_hold=row["conflict_hold"],
            accepted=accepted,
            resumed_at=row["resumed_at"],
            decided_at=row["decided_at"],
            started_at=row["started_at"],
            finished_at=row["finished_at"],
            revision=row["revision"],
        ),
    )


def trouble_from(row: RowMapping) -> Trouble | None:
    """The error record of a run's row.  Raises CorruptRecord."""
    if row["error_count"] == 0:
        return None
    _check(f"run {row['id']}", _TROUBLE, row)
    return Trouble(
        message=row["error_message"],
        count=row["error_count"],
        at=row["error_at"],
        quarantined_at=row["quarantined_at"],
    )


def listed_from(row: RowMapping) -> Listed | None:
    """A line of a listing: as much of it as can be read, and the trouble with the rest.  None without an id."""
    if not isinstance(row["id"], UUID):
        return None
    run, trouble = None, None
    try:
        trouble = trouble_from(row)
        run = run_from(row)
    except CorruptRecord as error:
        at = row["updated_at"] if isinstance(row["updated_at"], datetime) else _UNTOLD
        trouble = trouble or Trouble(message=str(error), count=1, at=at)
    return Listed(
        run_id=RunId(row["id"]),
        name=row["name"] if run is not None else storable(str(row["name"])),
        # A word that is no status tells nothing: the trouble says so.
        status=RunStatus(row["status"]) if row["status"] in _STATUSES else RunStatus.PENDING,
        created_at=row["created_at"] if isinstance(row["created_at"], datetime) else _UNTOLD,
        run=run,
        trouble=trouble,
    )


# -- targets --


def target_columns(target: Target) -> Columns:
    """What a decision can change of a target, the mirrors included."""
    state, conflict = target.state, target.conflict
    lease_until = state.lease_until if isinstance(state, Claimed) else None
    retry_at = state.retry_at if isinstance(state, Blocked) else None
    submitted = state if isinstance(state, Submitted) else None
    cancelling = submitted.cancelling if submitted else None
    return {
        "status": target.status.value,
        "message": target.message,
        "attempt": target.attempt,
        "fence": target.fence,
        "lease_until": lease_until,
        "retry_at": retry_at,
        "task_ref": target.task_id,
        "missing_since": submitted.missing_since if submitted else None,
        "cancel_due": cancelling.due if cancelling else None,
        "cancel_delay_us": cancelling.delay if cancelling else None,
        "conflict_since": conflict.since if conflict else None,
        "conflict_count": conflict.count if conflict else None,
        "conflict_delay_us": conflict.delay if conflict else None,
        # The mirrors, as in the contract's table of column use by status.
        "task_id": uuid_or_none(target.task_id),
        "retry_after": lease_until or retry_at,
        "retry_state": rollout_documents.retry_state_text(conflict) if retry_at and conflict else None,
    }


def uuid_or_none(task_id: TaskId | None) -> UUID | None:
    """A task id as the reference's column can hold it: only a UUID, written as one."""
    if task_id is None or len(task_id) != _UUID_LENGTH:
        return None
    try:
        found = UUID(task_id)
    except ValueError:
        return None
    return found if str(found) == task_id else None


def new_target_columns(run_id: RunId, target: Target, now: datetime) -> Columns:
    """The whole row of a new target."""
    return {
        **target_columns(target),
        "id": target.id,
        "operation_run_id": run_id,
        "rack_id": target.rack_id,
        "rack_name": target.rack_name,
        "sequence_index": target.sequence,
        "phase_index": target.phase,
        "components_by_type": rollout_documents.components_text(target.components),
        "created_at": now,
        "updated_at": now,
    }


def target_from(row: Sequence[Any]) -> Target:
    """The target of a row, which has the columns of ``schema.TARGET_COLUMNS`` in that order.  Raises CorruptRecord."""
    target_id, run_id, rack_id, sequence, phase, components, status, message, rack_name, attempt, fence = row[:11]
    lease_until, retry_at, task_ref, missing_since, cancel_due, cancel_delay = row[11:17]
    conflict_since, conflict_count, conflict_delay = row[17:]
    _check_target(row)
    try:
        return Target(
            id=target_id,
            rack_id=rack_id,
            rack_name=rack_name,
            sequence=sequence,
            phase=phase,
            components=rollout_documents.components_from(
                lambda: f"run {run_id}, target {target_id}, column components_by_type", components
            ),
            state=_state_from(status, lease_until, retry_at, task_ref, missing_since, cancel_due, cancel_delay),
            attempt=attempt,
            fence=fence,
            conflict=None
            if conflict_since is None
            else Conflict(since=conflict_since, count=conflict_count, delay=conflict_delay),
            message=message or "",
        )
    except (InvalidInput, ValueError, TypeError) as error:
        raise CorruptRecord(f"run {run_id}, target {target_id}", strict.brief(str(error))) from error


_PENDING: Final = Pending()
_PENDING_STATUS: Final = TargetStatus.PENDING.value


def _state_from(
    status: str,
    lease_until: datetime | None,
    retry_at: datetime | None,
    task_ref: str | None,
    missing_since: datetime | None,
    cancel_due: datetime | None,
    cancel_delay: timedelta | None,
) -> TargetState:
    if status == _PENDING_STATUS:
        return _PENDING
    task_id = None if task_ref is None else TaskId(task_ref)
    match TargetStatus(status):
        case TargetStatus.CLAIMED if lease_until is not None:
            return Claimed(lease_until=lease_until)
        case TargetStatus.BLOCKED if retry_at is not None:
            return Blocked(retry_at=retry_at)
        case TargetStatus.SUBMITTED if task_id is not None:
            cancelling = (
                None if cancel_due is None or cancel_delay is None else Cancelling(due=cancel_due, delay=cancel_delay)
            )
            return Submitted(task_id=task_id, missing_since=missing_since, cancelling=cancelling)
        case settled if settled.is_settled:
            return Settled(status=settled, task_id=task_id)
        case other:
            raise ValueError(f"it is {other} and does not say what that needs")


# -- phases, strays, the journal --


def tally_columns(tally: Tally) -> Columns:
    return {name: getattr(tally, name) for name in COUNTERS}


def tally_from(row: RowMapping | Mapping[str, int]) -> Tally:
    """The counts of a row, whose cursors are looked at too.  Raises CorruptRecord."""
    _check(f"phase {_named(row['phase_index'])}" if "phase_index" in row else "a phase", _PHASE, row)
    return Tally(**{name: row[name] for name in COUNTERS})


def stray_columns(stray: Stray) -> Columns:
    return {
        "task_ref": stray.task_id,
        "target_id": stray.target_id,
        "cancel_due": stray.cancelling.due,
        "cancel_delay_us": stray.cancelling.delay,
        "missing_since": stray.missing_since,
        "is_open": stray.is_open,
        "message": stray.message,
    }


def stray_from(row: RowMapping) -> Stray:
    """The stray of a row.  Raises CorruptRecord."""
    _check(f"run {_named(row['operation_run_id'])}, stray {strict.shown(row['task_ref'])}", _STRAY, row)
    return Stray(
        task_id=TaskId(row["task_ref"]),
        target_id=TargetId(row["target_id"]),
        cancelling=Cancelling(due=row["cancel_due"], delay=row["cancel_delay_us"]),
        missing_since=row["missing_since"],
        is_open=row["is_open"],
        message=row["message"],
    )


def journal_columns(entry: JournalEntry) -> Columns:
    """The row of an entry, without its number."""
    return {
        "operation_run_id": entry.run_id,
        "at": entry.at,
        "actor": entry.actor,
        "command_id": entry.reply.command_id if entry.reply else None,
        "command": documents.command_text(entry.command) if entry.command else None,
        "reply": documents.reply_text(entry.reply) if entry.reply else None,
        "observations": documents.observations_text(entry.observations),
        "steps": documents.steps_text(entry.steps),
        "held_back": documents.held_back_text(entry.held_back),
        "limits": documents.limits_text(entry.limits) if entry.limits else None,
        "digest": entry.digest,
    }


def entry_from(row: RowMapping) -> JournalEntry:
    """The entry of a row.  Raises CorruptRecord."""
    what = f"run {_named(row['operation_run_id'])}, journal entry {_named(row['number'])}"
    _check(what, _JOURNAL, row)
    what = f"{what}, column"
    command, reply, limits = row["command"], row["reply"], row["limits"]
    return JournalEntry(
        run_id=RunId(row["operation_run_id"]),
        number=row["number"],
        at=row["at"],
        actor=row["actor"],
        command=None if command is None else documents.command_from(f"{what} command", command),
        reply=None if reply is None else documents.reply_from(f"{what} reply", reply),
        limits=None if limits is None else documents.limits_from(f"{what} limits", limits),
        digest=row["digest"],
        observations=documents.observations_from(f"{what} observations", row["observations"]),
        # An entry of the first version told the effects too; they follow from the changes.
        steps=tuple(
            step
            for step in documents.steps_from(f"{what} steps", row["steps"])
            if not isinstance(step.action, SubmitTask | CancelTask)
        ),
        held_back=documents.held_back_from(f"{what} held_back", row["held_back"]),
    )

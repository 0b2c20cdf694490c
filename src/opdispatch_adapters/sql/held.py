"""A run under its lock: the window that a decision looks at, and the writes that a decision means.

Both take a number of statements that depends neither on the size of a phase nor on how many targets change: the
targets that a window holds are written in one statement, whole-run changes in one each.  What a change means is
``changed_run`` and ``changed_target``; nothing is decided here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final, get_args

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    bindparam,
    func,
    insert,
    select,
    text,
    true,
    update,
)
from sqlalchemy.dialects.sqlite import insert as upsert

from opdispatch.action import (
    Decision,
    RearmBlocked,
    RecordStray,
    RunAction,
    SkipUnstarted,
    TargetAction,
    UpdateStray,
    changed_run,
    changed_target,
)
from opdispatch.command import Reply
from opdispatch.draft import skipped_tally
from opdispatch.errors import CorruptRecord, NotFound, Unavailable
from opdispatch.identity import CommandId, RunId, TargetId, TaskId
from opdispatch.observation import Observation, named_tasks
from opdispatch.ports import JournalEntry
from opdispatch.run import Run
from opdispatch.state import Limits, RunState, ready_bound
from opdispatch.tally import Tally, tallies_at
from opdispatch.target import Blocked, Pending, Stray, Target, TargetStatus

from . import documents, rows, schema
from .schema import journal, phase, run, stray, target

_RUN_ACTIONS: Final = get_args(RunAction)
_TARGET_ACTIONS: Final = get_args(TargetAction)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursors:
    """The bounds of one phase's scans (``schema``)."""

    low: int = 0
    high: int = 0
    next: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded:
    """What ``apply`` needs to know of the rows as ``load`` found them."""

    run: Run
    wake_at: datetime | None
    clears_trouble: bool
    phases: tuple[Tally, ...]
    cursors: tuple[Cursors, ...]
    pending: tuple[int, ...]
    """The lowest sequences of pending targets of the current phase; all below the last one are here."""


def in_flight_of(run_id: RunId) -> Select[Any]:
    """Every claimed or submitted target, by sequence."""
    c = target.c
    return schema.target_rows.where(c.operation_run_id == run_id, text(schema.IN_FLIGHT)).order_by(c.sequence_index)


def open_strays_of(run_id: RunId) -> Select[Any]:
    """The strays not yet seen to be over."""
    return select(stray).where(stray.c.operation_run_id == run_id, stray.c.is_open == true())


def by_task(strays: Iterable[Stray]) -> tuple[Stray, ...]:
    """In the order of Python's text, whatever the database's collation is."""
    return tuple(sorted(strays, key=lambda found: found.task_id))


def _listed(values: Iterable[object]) -> ColumnElement[Any]:
    """These values as a one-column query: one parameter, however many they are."""
    array = json.dumps([str(value) for value in values])
    return select(func.json_each(array).table_valued("value").c.value).scalar_subquery()


class HeldRun:
    """One locked run, inside one transaction."""

    def __init__(self, connection: Connection, run_id: RunId, clock: Callable[[], datetime]) -> None:
        self._connection = connection
        self._run_id = run_id
        self._clock = clock
        self._loaded: _Loaded | None = None

    # -- load --

    def _rows(self, query: Select[Any]) -> Sequence[RowMapping]:
        return self._connection.execute(query).mappings().all()

    def _targets(self, query: Select[Any]) -> tuple[Target, ...]:
        return tuple(rows.target_from(row) for row in self._rows(query))

    def load(self, observations: Sequence[Observation], limits: Limits, *, named: Iterable[TargetId] = ()) -> RunState:
        row = self._run_row()
        found = rows.run_from(row)
        clock = self._clock()
        now = clock if found.decided_at is None else max(clock, found.decided_at)
        phase_rows = self._rows(
            select(phase).where(phase.c.operation_run_id == self._run_id).order_by(phase.c.phase_index)
        )
        phases = tuple(rows.tally_from(row) for row in phase_rows)
        cursors = tuple(Cursors(low=row["low_seq"], high=row["high_seq"], next=row["next_seq"]) for row in phase_rows)
        tallies = tallies_at(phases, found.phase, found.opened)
        in_flight = self._in_flight(cursors)
        if len(in_flight) != tallies.everything.in_flight:
            raise CorruptRecord(
                f"run {self._run_id}",
                f"{tallies.everything.in_flight} targets are counted in flight, and {len(in_flight)} are",
                "run `opdispatch store check`",
            )
        bound = ready_bound(found, limits, observations)
        pending = self._pending(found.phase, cursors[found.phase].next, bound) if tallies.current.pending else ()
        blocked = self._due(found.phase, now, bound) if tallies.current.blocked else ()
        ready = tuple(sorted((*pending, *blocked), key=lambda t: t.sequence))[:bound]
        names = {*named, *(observation.target_id for observation in observations)}
        names -= {held.id for held in (*ready, *in_flight)}
        self._loaded = _Loaded(
            run=found,
            wake_at=row["wake_at"],
            clears_trouble=row["error_count"] > 0 and row["quarantined_at"] is None,
            phases=phases,
            cursors=cursors,
            pending=tuple(waiting.sequence for waiting in pending),
        )
        return RunState(
            run=found,
            tallies=tallies,
            in_flight=in_flight,
            named=self._named(names) if names else (),
            ready=ready,
            next_retry=self._next_retry(found.phase, now) if tallies.current.blocked else None,
            strays=self._strays(named_tasks(observations)),
            observations=tuple(observations),
            limits=limits,
            now=now,
        )

    def _run_row(self) -> RowMapping:
        row = self._connection.execute(schema.run_rows.where(run.c.id == self._run_id)).mappings().first()
        if row is None:
            raise NotFound("run", str(self._run_id))
        return row

    def _in_flight(self, cursors: Sequence[Cursors]) -> tuple[Target, ...]:
        low = min((found.low for found in cursors if found.low < found.high), default=0)
        high = max((found.high for found in cursors), default=0)
        sequence = target.c.sequence_index
        return self._targets(in_flight_of(self._run_id).where(sequence >= low, sequence < high))

    def _pending(self, index: int, first: int, bound: int) -> tuple[Target, ...]:
        c = target.c
        return self._targets(
            schema.target_rows.where(c.operation_run_id == self._run_id, c.phase_index == index, text(schema.PENDING))
            .where(c.sequence_index >= first)
            .order_by(c.sequence_index)
            .limit(bound)
        )

    def _due(self, index: int, now: datetime, bound: int) -> tuple[Target, ...]:
        c = target.c
        return self._targets(
            schema.target_rows.where(c.operation_run_id == self._run_id, c.phase_index == index, text(schema.BLOCKED))
            .where(c.retry_at <= now)
            .order_by(c.sequence_index)
            .limit(bound)
        )

    def _next_retry(self, index: int, now: datetime) -> datetime | None:
        c = target.c
        return self._connection.scalar(
            select(func.min(c.retry_at, type_=c.retry_at.type))
            .where(c.operation_run_id == self._run_id, c.phase_index == index, text(schema.BLOCKED))
            .where(c.retry_at > now)
        )

    def _named(self, names: Iterable[TargetId]) -> tuple[Target, ...]:
        c = target.c
        return self._targets(
            schema.target_rows.where(c.operation_run_id == self._run_id, c.id.in_(_listed(names))).order_by(
                c.sequence_index
            )
        )

    def _strays(self, tasks: Iterable[TaskId]) -> tuple[Stray, ...]:
        found = [rows.stray_from(row) for row in self._rows(open_strays_of(self._run_id))]
        wanted = set(tasks) - {held.task_id for held in found}
        if wanted:
            closed = select(stray).where(
                stray.c.operation_run_id == self._run_id, stray.c.task_ref.in_(_listed(sorted(wanted)))
            )
            found.extend(rows.stray_from(row) for row in self._rows(closed))
        return by_task(found)

    def replied(self, command_id: CommandId) -> Reply | None:
        c = journal.c
        row = self._connection.execute(
            select(c.number, c.reply).where(c.operation_run_id == self._run_id, c.command_id == command_id)
        ).first()
        if row is None:
            return None
        number, reply = row
        return documents.reply_from(f"run {self._run_id}, journal entry {number}, column reply", reply)

    # -- apply --

    def apply(self, state: RunState, decision: Decision, *, actor: str, served: bool) -> None:
        loaded, self._loaded = self._loaded, None
        if loaded is None or state.run != loaded.run or decision.run_id != self._run_id:
            raise ValueError("a decision is applied once, to the state that was loaded last")
        now = self._clock()
        if decision.changes:
            _Writer(self._connection, state, loaded, now).write(decision)
        self._write_run(loaded, decision, now, clears_trouble=served and loaded.clears_trouble)
        if decision.steps or decision.reply is not None:
            entry = JournalEntry(
                run_id=self._run_id,
                number=1,
                at=decision.at,
                actor=actor,
                command=decision.command,
                reply=decision.reply,
                observations=decision.observations,
                steps=decision.steps,
                held_back=decision.held_back,
            )
            last = select(func.coalesce(func.max(journal.c.number), 0)).where(
                journal.c.operation_run_id == self._run_id
            )
            columns = rows.journal_columns(entry)
            self._connection.execute(insert(journal).values(number=last.scalar_subquery() + 1, **columns))

    def _write_run(self, loaded: _Loaded, decision: Decision, now: datetime, *, clears_trouble: bool) -> None:
        changed: rows.Columns = {}
        if decision.changes:
            after = loaded.run
            for change in decision.changes:
                if isinstance(change, _RUN_ACTIONS):
                    after = changed_run(after, change)
            changed |= rows.run_columns(replace(after, decided_at=decision.at, revision=after.revision + 1))
        if decision.wake_at != loaded.wake_at:
            changed["wake_at"] = decision.wake_at
        if clears_trouble:
            changed |= {"error_count": 0, "error_message": None, "error_at": None}
        if not changed:
            return
        where = (run.c.id == self._run_id, run.c.revision == loaded.run.revision)
        result = self._connection.execute(update(run).where(*where).values(**changed, updated_at=now))
        _require(result.rowcount == 1, self._run_id)


def _require(held: bool, run_id: RunId) -> None:
    if not held:
        raise Unavailable(f"run {run_id}", "a row of it changed under its lock; nothing was written")


class _Writer:
    """The writes of one decision to targets, counters and strays."""

    def __init__(self, connection: Connection, state: RunState, loaded: _Loaded, now: datetime) -> None:
        self._connection = connection
        self._state = state
        self._loaded = loaded
        self._run_id = loaded.run.id
        self._now = now
        self._after: dict[TargetId, Target] = {}
        self._phases = list(loaded.phases)
        self._strays: dict[TaskId, Stray] = {}

    def write(self, decision: Decision) -> None:
        # Whole-run changes reach the rows first.  A target that is changed by itself too is worked out here in the
        # decision's order and written last, whole, so it ends up as if each change had been written in turn.
        for change in decision.changes:
            if isinstance(change, _TARGET_ACTIONS):
                self._change(change)
            elif isinstance(change, RecordStray | UpdateStray):
                self._strays[change.stray.task_id] = change.stray
            elif isinstance(change, RearmBlocked):
                self._rearm(change.at)
            elif isinstance(change, SkipUnstarted):
                self._skip(change.message)
        self._write_targets()
        self._write_phases()
        self._write_strays()

    def _change(self, change: TargetAction) -> None:
        before = self._after.get(change.target_id) or self._state.target(change.target_id)
        if before is None:
            raise LookupError(f"target {change.target_id} is not in the window")
        after = self._after[before.id] = changed_target(before, change)
        self._phases[after.phase] = self._phases[after.phase].moved(before, after)

    def _rearm(self, at: datetime) -> None:
        for found in list(self._after.values()):
            if isinstance(found.state, Blocked):
                self._after[found.id] = found.rearmed(at)
        self._connection.execute(
            update(target)
            .where(target.c.operation_run_id == self._run_id, text(schema.BLOCKED))
            .values(
                retry_at=at,
                conflict_since=None,
                conflict_count=None,
                conflict_delay_us=None,
                retry_after=at,
                retry_state=None,
                updated_at=self._now,
            )
        )

    def _skip(self, message: str) -> None:
        for found in list(self._after.values()):
            if isinstance(found.state, Pending | Blocked):
                self._after[found.id] = found.settled(TargetStatus.SKIPPED, message)
        self._phases = [skipped_tally(tally) for tally in self._phases]
        self._connection.execute(
            update(target)
            .where(target.c.operation_run_id == self._run_id, text(schema.UNSTARTED))
            .values(
                status=TargetStatus.SKIPPED.value,
                message=message,
                retry_at=None,
                retry_after=None,
                retry_state=None,
                updated_at=self._now,
            )
        )

    def _write_targets(self) -> None:
        if not self._after:
            return
        changes = []
        for after in self._after.values():
            before = self._state.target(after.id)
            if before is None:
                raise AssertionError("only targets of the window are changed")
            guard = {"of_id": after.id, "of_fence": before.fence, "of_attempt": before.attempt}
            changes.append({**rows.target_columns(after), **guard, "updated_at": self._now})
        c = target.c
        statement = update(target).where(
            c.id == bindparam("of_id"), c.fence == bindparam("of_fence"), c.attempt == bindparam("of_attempt")
        )
        result = self._connection.execute(statement, changes)
        _require(result.rowcount == len(changes), self._run_id)

    def _write_phases(self) -> None:
        cursors = self._cursors()
        changes = [
            {
                **rows.tally_columns(tally),
                "of_phase": index,
                "low_seq": cursors[index].low,
                "high_seq": cursors[index].high,
                "next_seq": cursors[index].next,
            }
            for index, tally in enumerate(self._phases)
            if tally != self._loaded.phases[index] or cursors[index] != self._loaded.cursors[index]
        ]
        if changes:
            where = (phase.c.operation_run_id == self._run_id, phase.c.phase_index == bindparam("of_phase"))
            result = self._connection.execute(update(phase).where(*where), changes)
            _require(result.rowcount == len(changes), self._run_id)

    def _cursors(self) -> list[Cursors]:
        """The bounds after the changes.  The window holds everything in flight, so those are exact."""
        held = {found.id: found for found in self._state.in_flight} | self._after
        flying: dict[int, list[int]] = {}
        for found in held.values():
            if found.status.holds_slot:
                flying.setdefault(found.phase, []).append(found.sequence)
        first = [cursors.next for cursors in self._loaded.cursors]
        current = self._loaded.run.phase
        if self._loaded.pending:
            gone = {found.sequence for found in self._after.values() if not isinstance(found.state, Pending)}
            left = (sequence for sequence in self._loaded.pending if sequence not in gone)
            first[current] = next(left, self._loaded.pending[-1] + 1)
        for found in self._after.values():
            if isinstance(found.state, Pending):
                first[found.phase] = min(first[found.phase], found.sequence)
        return [
            Cursors(low=min(flying[index]), high=max(flying[index]) + 1, next=next_seq)
            if index in flying
            else Cursors(next=next_seq)
            for index, next_seq in enumerate(first)
        ]

    def _write_strays(self) -> None:
        if not self._strays:
            return
        written = [{**rows.stray_columns(found), "operation_run_id": self._run_id} for found in self._strays.values()]
        statement = upsert(stray)
        known = {column.name: statement.excluded[column.name] for column in stray.c if not column.primary_key}
        self._connection.execute(statement.on_conflict_do_update(set_=known), written)

"""A run under its lock: the window that a decision looks at, and the writes that a decision means.

Both take a number of statements that depends neither on the size of a phase nor on how many targets change.  The same
window is read without the lock for a glance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, select

from opdispatch.action import Decision
from opdispatch.command import Command, Reply, require_repeat
from opdispatch.errors import NotFound, Unavailable
from opdispatch.identity import RunId, TargetId
from opdispatch.journal import entry_of, needs_entry
from opdispatch.observation import Observation, named_tasks
from opdispatch.rollout import Rollout
from opdispatch.run import Run
from opdispatch.state import Limits, RunState, ready_bound
from opdispatch.tally import tallies_at

from . import documents, rows, schema
from .changes import Writes, Writing, changes_of
from .schema import journal
from .window import Candidates, Known, Reads, Snapshot

_DOCUMENTS = select(*(schema.run.c[name] for name in ("id", "name", "description", *schema.DOCUMENTS)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A state, and what is needed of the rows that it was made of to write a decision on it."""

    state: RunState
    snapshot: Snapshot
    line: tuple[int, ...]
    """The sequences of the new targets of the current phase that were read."""


class Reader:
    """Reads runs and windows in the caller's transaction."""

    def __init__(self, reads: Reads, known: Known) -> None:
        self.reads = reads
        self.known = known

    def run_of(self, connection: Connection, row: rows.NamedRow) -> Run:
        """The run of a row of ``schema.head_rows``.  Raises CorruptRecord."""
        return rows.run_with(row, self._rollout(connection, RunId(row["id"]), row["created_at"]))

    def _rollout(self, connection: Connection, run_id: RunId, created_at: datetime) -> Rollout:
        kept = self.known.rollouts.get(run_id)
        found = kept[1] if kept is not None and kept[0] == created_at else None
        if found is None:
            row = connection.execute(_DOCUMENTS.where(schema.run.c.id == run_id)).mappings().one()
            found = rows.rollout_of(row)
            self.known.rollouts.put(run_id, (created_at, found))
        return found

    def snapshot(
        self, connection: Connection, run_id: RunId, revision: int, decided_at: datetime | None
    ) -> Snapshot | None:
        """The snapshot of a row that was read, or a newer one; None when the run is gone."""
        found = self.known.snapshot(run_id, revision, decided_at)
        if found is None:
            found = self.reads.snapshot(connection, run_id)
            if found is not None:
                self.known.keep(run_id, found.checked(run_id))
        return found

    def window(
        self,
        connection: Connection,
        run: Run,
        snapshot: Snapshot,
        now: datetime,
        observations: Sequence[Observation],
        limits: Limits,
        named: Iterable[TargetId] = (),
    ) -> Window:
        """The window of a run at a snapshot.  ``now`` is raised to the run's last decision."""
        now = now if run.decided_at is None else max(now, run.decided_at)
        tallies = tallies_at(snapshot.phases, run.phase, run.opened)
        bound = ready_bound(run, limits, observations, tallies.everything.in_flight + len(snapshot.strays))
        is_blocked = tallies.current.blocked > 0
        found = Candidates()
        if is_blocked or (bound and tallies.current.pending):
            found = self.reads.candidates(
                connection,
                run.id,
                run.phase,
                first=snapshot.cursors[run.phase].next,
                bound=bound,
                blocked=is_blocked,
                now=now,
            )
        ready = tuple(sorted((*found.new, *found.again, *found.due), key=lambda t: t.sequence))[:bound]
        # By their numbers: a UUID is hashed and compared in Python, a number is not.
        asked = {name.int: name for name in (*named, *(observation.target_id for observation in observations))}
        for held in (*ready, *snapshot.in_flight):
            asked.pop(held.id.int, None)
        names = asked.values()
        strays = snapshot.strays
        if snapshot.has_closed_strays:
            wanted = named_tasks(observations) - {stray.task_id for stray in strays}
            closed = self.reads.strays(connection, run.id, sorted(wanted)) if wanted else ()
            strays = tuple(sorted((*strays, *closed), key=lambda stray: stray.task_id))
        return Window(
            state=RunState(
                run=run,
                tallies=tallies,
                in_flight=snapshot.in_flight,
                named=self.reads.named(connection, run.id, names) if names else (),
                ready=ready,
                next_retry=found.next_retry,
                strays=strays,
                observations=tuple(observations),
                limits=limits,
                now=now,
            ),
            snapshot=snapshot,
            line=tuple(waiting.sequence for waiting in found.new),
        )


class HeldRun:
    """One locked run, inside one transaction.

    ``row`` is the run's row as it was locked; ``clock`` gives the store's time after that.
    """

    def __init__(
        self,
        connection: Connection,
        row: rows.NamedRow,
        clock: Callable[[], datetime],
        reader: Reader,
        writes: Writes,
    ) -> None:
        self._connection = connection
        self._run_id = RunId(row["id"])
        self._row = row
        self._clock = clock
        self._reader = reader
        self._writes = writes
        self._window: Window | None = None
        self._is_written = False
        self.after: Snapshot | None = None
        """The snapshot that the run has once this is committed; None when it is the one that was read."""

    def load(self, observations: Sequence[Observation], limits: Limits, *, named: Iterable[TargetId] = ()) -> RunState:
        if self._is_written:
            self._reload()
        now = self._clock()
        run = self._reader.run_of(self._connection, self._row)
        snapshot = self.after
        if snapshot is None:
            snapshot = self._reader.snapshot(self._connection, self._run_id, run.revision, run.decided_at)
        if snapshot is None:
            raise NotFound("run", str(self._run_id))
        self._window = self._reader.window(self._connection, run, snapshot, now, observations, limits, named)
        return self._window.state

    def _reload(self) -> None:
        found = self._connection.execute(schema.head_rows.where(schema.run.c.id == self._run_id)).mappings().first()
        if found is None:
            raise NotFound("run", str(self._run_id))
        self._row = found
        self._is_written = False

    def replied(self, asked: Command) -> Reply | None:
        c = journal.c
        row = self._connection.execute(
            select(c.number, c.command, c.reply).where(
                c.operation_run_id == self._run_id, c.command_id == asked.command_id
            )
        ).first()
        if row is None:
            return None
        what = f"run {self._run_id}, journal entry {row.number}, column"
        require_repeat(documents.command_from(f"{what} command", row.command), asked)
        return documents.reply_from(f"{what} reply", row.reply)

    def apply(self, state: RunState, decision: Decision, *, actor: str, served: bool) -> None:
        window, self._window = self._window, None
        if window is None or state.run != window.state.run or decision.run_id != self._run_id:
            raise ValueError("a decision is applied once, to the state that was loaded last")
        row = self._row
        changes = changes_of(state, window.snapshot, window.line, decision) if decision.changes else None
        writing = Writing(
            run_id=self._run_id,
            revision=state.run.revision,
            now=decision.at,
            changes=changes,
            wake_at=decision.wake_at,
            moves_wake=decision.wake_at != row["wake_at"],
            clears_trouble=served and row["error_count"] > 0 and row["quarantined_at"] is None,
            entry=entry_of(state, decision, actor=actor, number=1) if needs_entry(decision) else None,
            announces=decision.command is not None,
        )
        self._is_written = True
        if not self._writes.write(self._connection, writing):
            raise Unavailable(f"run {self._run_id}", "a row of it changed under its lock; nothing was written")
        if changes is not None:
            self.after = changes.after

"""From a decision to the rows that it changes: pure, and the same for every database.

What a change means is ``changed_run`` and ``changed_target``; nothing is decided here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final, NamedTuple, Protocol, get_args

from sqlalchemy import Connection

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
from opdispatch.draft import skipped_tally
from opdispatch.identity import RunId, TaskId
from opdispatch.journal import JournalEntry
from opdispatch.run import Run
from opdispatch.state import RunState
from opdispatch.tally import Tally
from opdispatch.target import Blocked, Pending, Stray, Target, TargetStatus

from .window import Cursors, Snapshot

_RUN_ACTIONS: Final = get_args(RunAction)
_TARGET_ACTIONS: Final = frozenset(get_args(TargetAction))


class Moved(NamedTuple):
    """One target before and after."""

    before: Target
    after: Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What to write for one decision.

    ``run`` is None when nothing of the run changes but ``wake_at``.  Whole-run changes (``rearm_at``, ``skip``) reach
    the rows first, and a target that is changed by itself too is written whole after them.  ``phases`` holds those
    whose counts or cursors change, by index.  ``after`` is the snapshot that the run then has.
    """

    run: Run | None
    targets: tuple[Moved, ...]
    rearm_at: datetime | None
    skip: str | None
    phases: tuple[tuple[int, Tally, Cursors], ...]
    strays: tuple[Stray, ...]
    after: Snapshot

    @property
    def has_cohort(self) -> bool:
        """True when many targets change at once, whatever their number."""
        return self.rearm_at is not None or self.skip is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Writing:
    """One locked run's writes, as a whole: all of them or none.

    ``wake_at`` is written when ``moves_wake`` or the run changes; ``clears_trouble`` forgets the error record;
    ``announces`` tells other processes that the run is due.
    """

    run_id: RunId
    revision: int
    now: datetime
    changes: Changes | None
    wake_at: datetime | None
    moves_wake: bool
    clears_trouble: bool
    entry: JournalEntry | None
    announces: bool


class Writes(Protocol):
    """Who writes: a fixed number of statements, whatever the sizes."""

    def write(self, connection: Connection, writing: Writing) -> bool:
        """False when a row was not as it was loaded; the transaction must then be undone."""
        ...


def changes_of(state: RunState, snapshot: Snapshot, line: Iterable[int], decision: Decision) -> Changes:
    """The changes of a decision that was made on this state.

    ``line`` are the sequences of the new targets that were read of its current phase, ascending; all below the last
    one are among them.
    """
    return _Work(state, snapshot, tuple(line)).changes(decision)


class _Work:
    """The targets, counts and strays of one decision while they are worked out in the decision's order."""

    def __init__(self, state: RunState, snapshot: Snapshot, line: tuple[int, ...]) -> None:
        self._state = state
        self._snapshot = snapshot
        self._line = line
        # By the number of the id: a UUID is hashed and compared in Python, a number is not.
        self._after: dict[int, Target] = {}
        self._phases = list(snapshot.phases)
        self._strays: dict[TaskId, Stray] = {}

    def changes(self, decision: Decision) -> Changes:
        run, rearm_at, skip = self._state.run, None, None
        outcome = decision.outcome
        if outcome is not None:
            self._after = {after.id.int: after for after in outcome.targets}
            for index, moved in outcome.moves.items():
                self._phases[index] = self._phases[index] + moved
        for change in decision.changes:
            if type(change) in _TARGET_ACTIONS:
                if outcome is None:
                    self._change(change)  # type: ignore[arg-type]  # its type was looked up
            elif isinstance(change, RecordStray | UpdateStray):
                self._strays[change.stray.task_id] = change.stray
            elif isinstance(change, RearmBlocked):
                rearm_at = change.at
                self._rearm(change.at)
            elif isinstance(change, SkipUnstarted):
                skip = change.message
                self._skip(change.message)
            elif isinstance(change, _RUN_ACTIONS):
                run = changed_run(run, change)
        run = replace(run, decided_at=decision.at, revision=run.revision + 1)
        in_flight, standing = self._in_flight(), self._state.by_number()
        cursors = self._cursors(in_flight)
        return Changes(
            run=run,
            targets=tuple([Moved(standing[number], after) for number, after in self._after.items()]),
            rearm_at=rearm_at,
            skip=skip,
            phases=tuple(
                (index, tally, cursors[index])
                for index, tally in enumerate(self._phases)
                if tally != self._snapshot.phases[index] or cursors[index] != self._snapshot.cursors[index]
            ),
            strays=tuple(self._strays.values()),
            after=self._snapshot_after(run, in_flight, cursors),
        )

    def _change(self, change: TargetAction) -> None:
        before = self._after.get(change.target_id.int) or self._state.target(change.target_id)
        if before is None:
            raise LookupError(f"target {change.target_id} is not in the window")
        after = self._after[before.id.int] = changed_target(before, change)
        self._phases[after.phase] = self._phases[after.phase].moved(before, after)

    def _rearm(self, at: datetime) -> None:
        for found in list(self._after.values()):
            if isinstance(found.state, Blocked):
                self._after[found.id.int] = found.rearmed(at)

    def _skip(self, message: str) -> None:
        for found in list(self._after.values()):
            if isinstance(found.state, Pending | Blocked):
                self._after[found.id.int] = found.settled(TargetStatus.SKIPPED, message)
        self._phases = [skipped_tally(tally) for tally in self._phases]

    def _in_flight(self) -> tuple[Target, ...]:
        held = {found.id.int: found for found in self._snapshot.in_flight} | self._after
        return tuple(sorted((t for t in held.values() if t.state.status.holds_slot), key=lambda t: t.sequence))

    def _cursors(self, in_flight: tuple[Target, ...]) -> tuple[Cursors, ...]:
        """The cursors after the changes.  The window holds everything in flight, so they are exact."""
        flying: dict[int, list[int]] = {}
        for found in in_flight:
            flying.setdefault(found.phase, []).append(found.sequence)
        first = [cursors.next for cursors in self._snapshot.cursors]
        if self._line:
            # A target that changes leaves the line for good: nothing that was begun becomes new again.
            gone = {found.sequence for found in self._after.values()}
            left = (sequence for sequence in self._line if sequence not in gone)
            first[self._state.run.phase] = next(left, self._line[-1] + 1)
        return tuple(
            Cursors(in_flight=tuple(flying.get(index, ())), next=next_seq) for index, next_seq in enumerate(first)
        )

    def _snapshot_after(self, run: Run, in_flight: tuple[Target, ...], cursors: tuple[Cursors, ...]) -> Snapshot:
        strays = {stray.task_id: stray for stray in self._snapshot.strays} | self._strays
        return Snapshot(
            revision=run.revision,
            decided_at=run.decided_at,
            phases=tuple(self._phases),
            cursors=cursors,
            in_flight=in_flight,
            strays=tuple(stray for _, stray in sorted(strays.items()) if stray.is_open),
            has_closed_strays=self._snapshot.has_closed_strays or not all(stray.is_open for stray in strays.values()),
        )

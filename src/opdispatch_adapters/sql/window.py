"""What a store knows of a run between two decisions, and what it must be able to read of one.

A ``Snapshot`` is everything that a decision needs of a run but the next candidates: the counts, the cursors, what is in
flight, the open strays.  Its size follows the concurrency limit.  It is true for one revision of the run, and every
write raises the revision, so a process that made the last decision need not read it again (``Known``).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from sqlalchemy import Connection

from opdispatch.errors import CorruptRecord
from opdispatch.identity import RunId, TargetId, TaskId
from opdispatch.rollout import Rollout
from opdispatch.tally import Tally
from opdispatch.target import Pending, Stray, Target

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursors:
    """Where the targets of one phase are found (``schema``): those in flight, by sequence, and the next to begin."""

    in_flight: tuple[int, ...] = ()
    next: int = 0


def is_new(target: Target) -> bool:
    """True for a pending target that was never settled: it stands in its place in the line, and ``Cursors.next`` counts
    for it.  One that is tried again waits in a lane of its own."""
    return isinstance(target.state, Pending) and target.attempt == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A run at one revision.  ``in_flight`` is by sequence; ``strays`` are the open ones, by task id.

    ``decided_at`` is kept beside the revision because a database that was restored counts revisions anew.
    """

    revision: int
    decided_at: datetime | None
    phases: tuple[Tally, ...]
    cursors: tuple[Cursors, ...]
    in_flight: tuple[Target, ...]
    strays: tuple[Stray, ...]
    has_closed_strays: bool

    def checked(self, run_id: RunId) -> Snapshot:
        """The snapshot itself; raises CorruptRecord when what is in flight is not what is counted."""
        counted = sum(phase.in_flight for phase in self.phases)
        if counted != len(self.in_flight):
            raise CorruptRecord(
                f"run {run_id}",
                f"{counted} targets are counted in flight, and {len(self.in_flight)} are",
                "run `opdispatch store check`",
            )
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """The next candidates of a phase, each kind by sequence and at most as many as asked for, and when the next of the
    others may be tried.  ``new`` are the pending ones in line, ``again`` those that are tried again, ``due`` blocked
    ones."""

    new: tuple[Target, ...] = ()
    again: tuple[Target, ...] = ()
    due: tuple[Target, ...] = ()
    next_retry: datetime | None = None


class Reads(Protocol):
    """The queries behind a window; each costs by what it returns, and not by the size of the run."""

    def snapshot(self, connection: Connection, run_id: RunId) -> Snapshot | None:
        """The run as it stands, read in one moment; None when there is no such run."""
        ...

    def candidates(
        self, connection: Connection, run_id: RunId, phase: int, *, first: int, bound: int, blocked: bool, now: datetime
    ) -> Candidates:
        """The candidates of a phase: new ones from ``first`` on, those that are tried again, and, where some are
        ``blocked``, those."""
        ...

    def named(self, connection: Connection, run_id: RunId, targets: Iterable[TargetId]) -> tuple[Target, ...]:
        """These targets, by sequence; those that the run does not have are left out."""
        ...

    def strays(self, connection: Connection, run_id: RunId, tasks: Sequence[TaskId]) -> tuple[Stray, ...]:
        """The strays of these tasks."""
        ...


class _Recent(Generic[_T]):
    """The values that were used last, at most so many."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: OrderedDict[RunId, _T] = OrderedDict()
        self._guard = threading.Lock()

    def get(self, run_id: RunId) -> _T | None:
        with self._guard:
            found = self._values.get(run_id)
            if found is not None:
                self._values.move_to_end(run_id)
            return found

    def put(self, run_id: RunId, value: _T) -> None:
        if self._limit < 1:
            return
        with self._guard:
            self._values[run_id] = value
            self._values.move_to_end(run_id)
            if len(self._values) > self._limit:
                self._values.popitem(last=False)

    def forget(self, run_id: RunId) -> None:
        with self._guard:
            self._values.pop(run_id, None)


class Known:
    """What this process knows of the runs that it served last: never more than a hint.

    A snapshot counts only under the lock, or beside a row, of its own revision.  A rollout never changes; but a run
    that was removed may be made again under its id, with another instant of creation and other decisions.
    """

    def __init__(self, limit: int) -> None:
        self._snapshots: _Recent[Snapshot] = _Recent(limit)
        self.rollouts: _Recent[tuple[datetime, Rollout]] = _Recent(limit)

    def snapshot(self, run_id: RunId, revision: int, decided_at: datetime | None) -> Snapshot | None:
        """The snapshot of this very revision, if it is known."""
        if decided_at is None:
            # Every run begins there, and so does one that is made again.
            return None
        found = self._snapshots.get(run_id)
        return found if found is not None and (found.revision, found.decided_at) == (revision, decided_at) else None

    def keep(self, run_id: RunId, snapshot: Snapshot) -> None:
        """Remember what was read or committed."""
        self._snapshots.put(run_id, snapshot)

    def forget(self, run_id: RunId) -> None:
        """Nobody knows how the run stands: a transaction did not end well."""
        self._snapshots.forget(run_id)

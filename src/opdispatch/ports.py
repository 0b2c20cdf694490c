"""The ports: what the core's decisions need of the outside, in the core's own words.

All three speak in batches, because a real system is one round trip away and not one round trip per target.
Calls are synchronous and raise only the core's errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from .action import Decision
from .candidate import Candidate, Scope
from .command import Command, Reply
from .identity import RunId, TargetId
from .journal import JournalEntry
from .observation import Observation
from .plan import NewRun
from .query import EVERY_RUN, RunQuery
from .run import Run, RunStatus
from .state import Limits, RunState
from .tally import Tally
from .target import Stray, Target, TargetStatus
from .task import Ref, SubmissionRequest, TaskRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """What to look at for one run: recorded tasks, open strays, and claims whose lease is over.

    ``looked_at`` is the store's clock, read in the same snapshot; every observation of these looks carries it.
    """

    refs: tuple[Ref, ...]
    looked_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """The error record of a run: kept beside it, so that a run that cannot be read can still be reported.

    ``count`` (>= 1) errors in a row, the last at ``at``; ``quarantined_at`` is set once it is served no more.
    """

    message: str
    count: int
    at: datetime
    quarantined_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """A run as a reader sees it: the run, the counts of each phase (index 0 first), its open strays, its trouble,
    and when it is due (None: not before an event)."""

    run: Run
    phases: tuple[Tally, ...]
    open_strays: int
    trouble: Trouble | None
    wake_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One line of a listing.  ``run`` is None when its documents cannot be read; ``trouble`` then says why."""

    run_id: RunId
    name: str
    status: RunStatus
    created_at: datetime
    run: Run | None
    trouble: Trouble | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Glance:
    """A run as it can be seen without its lock: the window, when it is due, and whether it has an error record."""

    state: RunState
    wake_at: datetime | None
    is_troubled: bool


class Held(Protocol):
    """A run under its lock.  Valid only inside the ``with`` of ``Store.lock``."""

    def load(
        self,
        observations: Sequence[Observation],
        limits: Limits,
        *,
        named: Iterable[TargetId] = (),
    ) -> RunState:
        """The window of the run for these observations and the targets that a command names.

        ``now`` is the store's clock, read after the lock was taken, and never below the run's last decision.
        Raises CorruptRecord when a document cannot be read.
        """
        ...

    def replied(self, asked: Command) -> Reply | None:
        """The first reply to this command, if it was given before.

        Raises InvalidInput when another command was given under its id (``command.require_repeat``).
        """
        ...

    def apply(self, state: RunState, decision: Decision, *, actor: str, served: bool) -> None:
        """Write the changes, the counts, the journal entry and ``wake_at``: all of them or none.

        A decision without changes and without a reply writes only ``wake_at``, and only if it differs.  ``served``
        says that a tick ended well with it: it clears the error record of a run that is not quarantined.  The journal
        keeps the observations of the decision, which are those that it took into account.
        """
        ...


class Store(Protocol):
    """Where runs live.  Every method is one transaction or none; none is open across a call to another port."""

    def create(self, new: NewRun) -> Run:
        """Store a run and its targets, due at once.  A repeated create returns the run as it stands now.

        Raises InvalidInput when the same ``command_id`` made a run of another rollout.
        """
        ...

    def due(self, limit: int, lease: timedelta, *, only: RunId | None = None) -> Sequence[RunId]:
        """Take at most ``limit`` runs whose ``wake_at`` has come, oldest first, and move it on by ``lease``.

        Runs in quarantine are never due.  Two callers never take the same run within a lease.  ``only`` looks at one
        run alone.
        """
        ...

    def next_due(self, *, only: RunId | None = None) -> timedelta | None:
        """How long until a run is due (zero: now), by the store's clock; None when none will be without an event."""
        ...

    def wake(self, run_id: RunId) -> None:
        """Make a run due at once: something happened to it.  Leaves alone a run that is backing off from an error or
        is in quarantine, and one that is due already; no such run is no error."""
        ...

    def unsettled(self, run_id: RunId) -> Looks:
        """What to look at before deciding on this run.  Raises NotFound, CorruptRecord."""
        ...

    def glance(self, run_id: RunId, observations: Sequence[Observation], limits: Limits) -> Glance | None:
        """The window of a run without its lock, as one moment showed it; None when it changed meanwhile.

        Writes nothing.  What is decided on it may not be applied: it only tells whether there is anything to decide.
        """
        ...

    def lock(self, run_id: RunId, wait: timedelta) -> AbstractContextManager[Held | None]:
        """One transaction that holds the run.  None when somebody else holds it for longer than ``wait``.

        Leaving the block normally commits; leaving it with an exception changes nothing.  Raises NotFound.
        """
        ...

    def get(self, run_id: RunId) -> Overview:
        """One run with its counts.  Raises NotFound, CorruptRecord."""
        ...

    def list(self, where: RunQuery = EVERY_RUN, *, limit: int = 100, offset: int = 0) -> Sequence[Listed]:
        """The runs that are asked for, newest first, then by id.  A run that cannot be read is listed too."""
        ...

    def count(self, where: RunQuery = EVERY_RUN) -> int:
        """How many runs are asked for."""
        ...

    def targets(
        self,
        run_id: RunId,
        *,
        statuses: AbstractSet[TargetStatus] = frozenset(),
        phases: AbstractSet[int] = frozenset(),
        limit: int | None = None,
        offset: int = 0,
    ) -> Sequence[Target]:
        """Targets by sequence; empty sets mean all.  Raises NotFound."""
        ...

    def strays(self, run_id: RunId) -> Sequence[Stray]:
        """All strays ever recorded, by task id.  Raises NotFound."""
        ...

    def journal(self, run_id: RunId, *, after: int = 0, limit: int | None = None) -> Sequence[JournalEntry]:
        """Entries with a number above ``after``, ascending.  Raises NotFound."""
        ...

    def report(
        self, run_id: RunId, message: str, retry_in: Callable[[int], timedelta], quarantine_after: int
    ) -> Trouble:
        """Record that the run could not be served, in a transaction of its own that loads no document.

        It is due again after ``retry_in(count)``, count (>= 1) being the errors in a row, this one included; with the
        ``quarantine_after``-th, not before a release.
        """
        ...

    def release(self, run_id: RunId) -> bool:
        """Lift a quarantine and forget the errors; due at once.  False when there was nothing to lift.  Raises
        NotFound.  Loads no document, and is valid in any status."""
        ...


class TaskManager(Protocol):
    """Whoever runs the tasks.

    A submission is idempotent on its key, and takes effect within the deadline or never; a manager that cannot
    promise that looks for the task before it begins one for a ``resubmission``, and in ``observe`` too.
    """

    @property
    def capacity(self) -> int | None:
        """How many submissions (>= 1) can begin within a claim lease less two call deadlines; None: any number."""
        ...

    def submit(self, requests: Sequence[SubmissionRequest], deadline: timedelta) -> Sequence[Observation]:
        """Begin these tasks, in parallel where that helps, and answer for each: accepted, conflicted, refused or
        unknown.  Never raises for one request; a request without an answer counts as unknown."""
        ...

    def observe(self, refs: Sequence[Ref], looked_at: datetime) -> Sequence[Observation]:
        """Look at these tasks and keys.  What cannot be read now is left out; it says nothing about the others.

        A key that is not there is answered ``SubmissionAbsent``.  Where ``ClaimRef.bar`` is set no submission of the
        key follows, so a manager that keeps its deadline may answer ``barred`` without doing anything; another one bars
        the key first, or answers that it did not.
        """
        ...

    def cancel(self, refs: Sequence[TaskRef]) -> Sequence[Observation]:
        """Ask for these tasks to end.  Silence is fine: the outcome is observed; a refusal may be told."""
        ...

    def on_change(self, callback: Callable[[RunId], None]) -> None:
        """Call back, from any thread, with the run of a task that may have changed.  A hint: never needed for
        correctness."""
        ...


class Inventory(Protocol):
    """Where racks come from."""

    def candidates(self, scope: Scope, limit: int | None = None) -> Sequence[Candidate]:
        """The racks in scope, by id; at most ``limit``.  Component types are not narrowed here."""
        ...

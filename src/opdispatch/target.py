"""A target: one rack of a run with its frozen components, and the machine that it goes through.

The whole machine is ``TRANSITIONS``: a pair that is not in it raises ``RefusedTransition`` and changes nothing.
What a status needs to know travels with it (``Claimed.lease_until``, ``Submitted.task_id``, ...), so no target
can have a lease and a task at once.  Three numbers outlive the states:

* ``attempt`` counts tries that were decided on, from 1; it rises only when a settled target is retried.
* ``fence`` counts claims, from 0; a late answer to an older claim is told from one to the newest by it.
* ``conflict`` is the history of refusals for a busy rack; it survives claims, pauses and restarts, and is
  cleared by an accepted submission, a retry, or a resume from a conflict hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum, unique
from typing import ClassVar, Final

from .errors import InvalidInput, RefusedTransition
from .identity import RackId, TargetId, TaskId
from .task import Components


@unique
class TargetStatus(StrEnum):
    """The statuses of a target, as on the reference's wire and in its database."""

    PENDING = "pending"
    """Start value: not claimed yet."""
    CLAIMED = "claimed"
    """Reserved for one submission; holds a slot until the answer is known."""
    BLOCKED = "blocked"
    """The rack was busy; waits until its next try.  Holds no slot."""
    SUBMITTED = "submitted"
    """A task exists for it; holds a slot until the task is over."""
    COMPLETED = "completed"
    FAILED = "failed"
    TERMINATED = "terminated"
    """The task was ended from outside before it could complete."""
    SKIPPED = "skipped"
    """It will not be done: the run was cancelled before it started, or an operator said so."""

    # As the text that it equals, and not as its name: the hash of an enumeration is computed in Python each time.
    __hash__ = str.__hash__

    @property
    def is_settled(self) -> bool:
        """True when no work is left: completed, failed, terminated or skipped."""
        return self in SETTLED

    @property
    def holds_slot(self) -> bool:
        """True when it counts against ``max_concurrent_targets``."""
        return self in _HOLDING


SETTLED: Final = (
    TargetStatus.COMPLETED,
    TargetStatus.FAILED,
    TargetStatus.TERMINATED,
    TargetStatus.SKIPPED,
)
_HOLDING: Final = (TargetStatus.CLAIMED, TargetStatus.SUBMITTED)
FAILURES: Final = frozenset({TargetStatus.FAILED, TargetStatus.TERMINATED})
"""What counts as a failed attempt, unless a gate narrows it."""


@unique
class TargetChange(StrEnum):
    """What can happen to a target."""

    CLAIM = "claim"
    SUBMIT = "submit"
    BLOCK = "block"
    REARM = "rearm"
    NOTE = "note"
    COMPLETE = "complete"
    FAIL = "fail"
    TERMINATE = "terminate"
    SKIP = "skip"
    RETRY = "retry"

    __hash__ = str.__hash__


_S, _C = TargetStatus, TargetChange
TRANSITIONS: Final[Mapping[tuple[TargetStatus, TargetChange], TargetStatus]] = {
    (_S.PENDING, _C.CLAIM): _S.CLAIMED,
    (_S.PENDING, _C.SKIP): _S.SKIPPED,
    (_S.BLOCKED, _C.CLAIM): _S.CLAIMED,
    (_S.BLOCKED, _C.REARM): _S.BLOCKED,
    (_S.BLOCKED, _C.SKIP): _S.SKIPPED,
    # An acceptance of the current attempt is adopted even after a later claim met a conflict.
    (_S.BLOCKED, _C.SUBMIT): _S.SUBMITTED,
    # A claim whose lease is over and whose key was looked up and not found is claimed anew.
    (_S.CLAIMED, _C.CLAIM): _S.CLAIMED,
    (_S.CLAIMED, _C.SUBMIT): _S.SUBMITTED,
    (_S.CLAIMED, _C.BLOCK): _S.BLOCKED,
    (_S.CLAIMED, _C.NOTE): _S.CLAIMED,
    (_S.CLAIMED, _C.COMPLETE): _S.COMPLETED,
    (_S.CLAIMED, _C.FAIL): _S.FAILED,
    (_S.CLAIMED, _C.TERMINATE): _S.TERMINATED,
    (_S.CLAIMED, _C.SKIP): _S.SKIPPED,
    (_S.SUBMITTED, _C.NOTE): _S.SUBMITTED,
    (_S.SUBMITTED, _C.COMPLETE): _S.COMPLETED,
    (_S.SUBMITTED, _C.FAIL): _S.FAILED,
    (_S.SUBMITTED, _C.TERMINATE): _S.TERMINATED,
    (_S.SUBMITTED, _C.SKIP): _S.SKIPPED,
    (_S.COMPLETED, _C.RETRY): _S.PENDING,
    (_S.FAILED, _C.RETRY): _S.PENDING,
    (_S.TERMINATED, _C.RETRY): _S.PENDING,
    (_S.SKIPPED, _C.RETRY): _S.PENDING,
}
"""The machine of a target: (status, change) to the next status.  A pair that is missing is refused."""

SETTLING: Final[Mapping[TargetStatus, TargetChange]] = {
    _S.COMPLETED: _C.COMPLETE,
    _S.FAILED: _C.FAIL,
    _S.TERMINATED: _C.TERMINATE,
    _S.SKIPPED: _C.SKIP,
}
"""The change that leads to each settled status."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancelling:
    """A cancellation that was asked for and is asked for again until the task is seen to be over.

    ``due`` is the next ask, ``delay`` the wait after it; it doubles up to ``Limits.cancel_max_delay``.
    """

    due: datetime
    delay: timedelta


@dataclass(frozen=True, slots=True)
class Pending:
    """Not claimed yet."""

    status: ClassVar[TargetStatus] = TargetStatus.PENDING


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """Reserved for one submission until ``lease_until``; then its key is looked up."""

    status: ClassVar[TargetStatus] = TargetStatus.CLAIMED

    lease_until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """Waits for a busy rack; may be claimed again at ``retry_at``."""

    status: ClassVar[TargetStatus] = TargetStatus.BLOCKED

    retry_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A task exists.  ``missing_since`` is the first of an unbroken series of looks that did not find it;
    ``cancelling`` is set once its cancellation was asked for."""

    status: ClassVar[TargetStatus] = TargetStatus.SUBMITTED

    task_id: TaskId
    missing_since: datetime | None = None
    cancelling: Cancelling | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """No work is left.  ``status`` is one of ``SETTLED``; ``task_id`` is the task that did it, if one did."""

    status: TargetStatus
    task_id: TaskId | None = None

    def __post_init__(self) -> None:
        if not self.status.is_settled:
            raise InvalidInput.at("status", f"{self.status} is not a settled status")


TargetState = Pending | Claimed | Blocked | Submitted | Settled
_WITH_TASK: Final = (Submitted, Settled)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """The history of refusals for a busy rack: the first one, how many (>= 1), and the last wait."""

    since: datetime
    count: int
    delay: timedelta

    def __post_init__(self) -> None:
        if self.count < 1 or self.delay <= timedelta(0):
            raise InvalidInput.at("conflict", f"count {self.count} and delay {self.delay} must be above zero")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One rack of a run.  ``sequence`` is its place in the run's order and ``phase`` its phase, both from 0."""

    id: TargetId
    rack_id: RackId
    rack_name: str
    sequence: int
    phase: int
    components: Components
    state: TargetState = Pending()
    attempt: int = 1
    fence: int = 0
    conflict: Conflict | None = None
    message: str = ""

    def __post_init__(self) -> None:
        if self.sequence < 0 or self.phase < 0 or self.attempt < 1 or self.fence < 0:
            numbers = f"sequence {self.sequence}, phase {self.phase}, attempt {self.attempt}, fence {self.fence}"
            raise InvalidInput.at(f"target {self.id}", f"one of {numbers} is below its start")

    @property
    def status(self) -> TargetStatus:
        """The status that its state amounts to."""
        return self.state.status

    @property
    def task_id(self) -> TaskId | None:
        """The task of the current attempt, where one is known."""
        return self.state.task_id if isinstance(self.state, _WITH_TASK) else None

    def _check(self, change: TargetChange) -> None:
        if (self.state.status, change) not in TRANSITIONS:
            raise RefusedTransition(f"target {self.id}", self.status, change)

    def claimed(self, lease_until: datetime) -> Target:
        """Reserved for one submission: a new fence, the same attempt, the conflict history kept."""
        self._check(TargetChange.CLAIM)
        state = Claimed(lease_until=lease_until)
        return self._become(state, self.attempt, self.fence + 1, self.conflict, "claimed for submission")

    def submitted(self, task_id: TaskId) -> Target:
        """A task exists for the current attempt; the rack was free, so the conflict history is cleared."""
        self._check(TargetChange.SUBMIT)
        return self._become(Submitted(task_id=task_id), self.attempt, self.fence, None, "submitted")

    def blocked(self, retry_at: datetime, conflict: Conflict, message: str) -> Target:
        """The rack was busy: waits until ``retry_at``."""
        self._check(TargetChange.BLOCK)
        return self._become(Blocked(retry_at=retry_at), self.attempt, self.fence, conflict, message)

    def rearmed(self, retry_at: datetime) -> Target:
        """Its conflict history is forgotten, and it may be tried at ``retry_at``."""
        self._check(TargetChange.REARM)
        return self._become(Blocked(retry_at=retry_at), self.attempt, self.fence, None, self.message)

    def noted(self, message: str, missing_since: datetime | None, cancelling: Cancelling | None) -> Target:
        """What is known about it besides its status; of a claimed target only the message can change."""
        self._check(TargetChange.NOTE)
        state = self.state
        if isinstance(state, Submitted):
            state = replace(state, missing_since=missing_since, cancelling=cancelling)
        return self._become(state, self.attempt, self.fence, self.conflict, message)

    def settled(self, status: TargetStatus, message: str) -> Target:
        """No work is left; the task of a submitted target stays on record."""
        self._check(SETTLING[status])
        state = Settled(status=status, task_id=self.task_id)
        return self._become(state, self.attempt, self.fence, self.conflict, message)

    def retried(self) -> Target:
        """A new attempt begins from the start; the fence goes on, so that late answers stay late."""
        self._check(TargetChange.RETRY)
        return self._become(Pending(), self.attempt + 1, self.fence, None, "")

    def _become(self, state: TargetState, attempt: int, fence: int, conflict: Conflict | None, message: str) -> Target:
        # Filled in by hand: this is done for every target of every decision, and a call with all the fields, which
        # checks the numbers again, takes twice as long.  What comes of a valid target is valid.
        after = object.__new__(Target)
        _set_id(after, self.id)
        _set_rack_id(after, self.rack_id)
        _set_rack_name(after, self.rack_name)
        _set_sequence(after, self.sequence)
        _set_phase(after, self.phase)
        _set_components(after, self.components)
        _set_state(after, state)
        _set_attempt(after, attempt)
        _set_fence(after, fence)
        _set_conflict(after, conflict)
        _set_message(after, message)
        return after


def _setter(name: str) -> Callable[[Target, object], None]:
    found: Callable[[Target, object], None] = getattr(Target, name).__set__
    return found


_set_id, _set_rack_id, _set_rack_name = map(_setter, ("id", "rack_id", "rack_name"))
_set_sequence, _set_phase, _set_components = map(_setter, ("sequence", "phase", "components"))
_set_state, _set_attempt, _set_fence = map(_setter, ("state", "attempt", "fence"))
_set_conflict, _set_message = map(_setter, ("conflict", "message"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stray:
    """A task that exists but is not its target's: a late duplicate, or one that an operator gave up on.

    It is cancelled, later and later, until it is seen to be over or was missing at two looks a grace time
    apart; it stays on record after that (``is_open`` false), so that it is not recorded twice.
    """

    task_id: TaskId
    target_id: TargetId
    cancelling: Cancelling
    missing_since: datetime | None = None
    is_open: bool = True
    message: str = ""

"""A run: one execution of an operation over a frozen set of targets, and the machine that it goes through.

Two holds are stored because somebody made them: the operator's and the conflict hold.  Two are derived anew
at each decision and only shown: the safety hold (a gate is tripped beyond what was accepted) and the phase
hold (the current phase is settled and the next waits for an advance).  While any stands the run is paused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum, unique
from typing import Final

from .errors import InvalidInput, RefusedTransition
from .identity import RunId
from .rollout import Rollout


@unique
class RunStatus(StrEnum):
    """The statuses of a run, as on the reference's wire and in its database."""

    PENDING = "pending"
    """Start value: no dispatcher has served it yet."""
    RUNNING = "running"
    PAUSED = "paused"
    """At least one hold stands: nothing new starts; what is in flight goes on and is observed."""
    COMPLETED = "completed"
    COMPLETED_WITH_FAILURES = "completed_with_failures"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def is_terminal(self) -> bool:
        """True when the status never changes again."""
        return self in TERMINAL


TERMINAL: Final = frozenset(
    {RunStatus.COMPLETED, RunStatus.COMPLETED_WITH_FAILURES, RunStatus.CANCELLED, RunStatus.FAILED}
)


@unique
class StatusReason(StrEnum):
    """Why a run is paused: the first hold that stands, in this order; ``none`` while it is not paused."""

    NONE = "none"
    OPERATOR_PAUSED = "operator_paused"
    CONFLICT_RETRY_TIMEOUT = "conflict_retry_timeout"
    SAFETY_GATE = "safety_gate"
    PHASE_GATE = "phase_gate"


@unique
class RunChange(StrEnum):
    """What can happen to a run's status."""

    START = "start"
    PAUSE = "pause"
    CONTINUE = "continue"
    COMPLETE = "complete"
    COMPLETE_WITH_FAILURES = "complete_with_failures"
    CANCEL = "cancel"
    FAIL = "fail"


_S, _C = RunStatus, RunChange
TRANSITIONS: Final[Mapping[tuple[RunStatus, RunChange], RunStatus]] = {
    (_S.PENDING, _C.START): _S.RUNNING,
    (_S.PENDING, _C.PAUSE): _S.PAUSED,
    (_S.PENDING, _C.CANCEL): _S.CANCELLED,
    (_S.PENDING, _C.FAIL): _S.FAILED,
    (_S.RUNNING, _C.PAUSE): _S.PAUSED,
    (_S.RUNNING, _C.COMPLETE): _S.COMPLETED,
    (_S.RUNNING, _C.COMPLETE_WITH_FAILURES): _S.COMPLETED_WITH_FAILURES,
    (_S.RUNNING, _C.CANCEL): _S.CANCELLED,
    (_S.RUNNING, _C.FAIL): _S.FAILED,
    # The reason or the message of the pause may change while it lasts.
    (_S.PAUSED, _C.PAUSE): _S.PAUSED,
    (_S.PAUSED, _C.CONTINUE): _S.RUNNING,
    # The last target may settle while a hold stands: the end wins.
    (_S.PAUSED, _C.COMPLETE): _S.COMPLETED,
    (_S.PAUSED, _C.COMPLETE_WITH_FAILURES): _S.COMPLETED_WITH_FAILURES,
    (_S.PAUSED, _C.CANCEL): _S.CANCELLED,
    (_S.PAUSED, _C.FAIL): _S.FAILED,
}
"""The machine of a run: (status, change) to the next status.  A pair that is missing is refused."""

ENDING: Final[Mapping[RunStatus, RunChange]] = {
    _S.COMPLETED: _C.COMPLETE,
    _S.COMPLETED_WITH_FAILURES: _C.COMPLETE_WITH_FAILURES,
    _S.CANCELLED: _C.CANCEL,
    _S.FAILED: _C.FAIL,
}
"""The change that leads to each terminal status."""


def next_status(run_id: RunId, status: RunStatus, change: RunChange) -> RunStatus:
    """The status after ``change``; raises RefusedTransition when no row of the table allows it."""
    try:
        return TRANSITIONS[status, change]
    except KeyError:
        raise RefusedTransition(f"run {run_id}", status, change) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """How many failed attempts of one gate were accepted.

    ``gate`` is the gate's index in the rollout; ``phase`` the phase for a gate of current-phase scope, None for
    a cumulative one; ``failures`` (>= 1) is subtracted from the gate's count before it is compared.
    """

    gate: int
    phase: int | None
    failures: int

    def __post_init__(self) -> None:
        if self.failures < 1:
            raise InvalidInput.at("accepted.failures", f"{self.failures} is below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How a run stood at one moment: what a reply tells of it, and tells again when the command is repeated.

    ``updated_at`` is the instant of the last decision that changed something; None before the first.
    """

    status: RunStatus
    reason: StatusReason
    message: str
    phase: int
    updated_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run as it stands.

    ``phase`` is the current phase and ``opened`` the highest phase ever opened, both from 0 and below ``phases``;
    they differ only after a retry moved the pointer back.  ``resumed_at`` restarts the conflict window.
    ``decided_at`` is the instant of the last decision that changed something; the clock of a state is never
    below it.  ``revision`` counts such decisions, from 0.
    """

    id: RunId
    name: str
    rollout: Rollout
    phases: int
    created_at: datetime
    status: RunStatus = RunStatus.PENDING
    status_reason: StatusReason = StatusReason.NONE
    status_message: str = ""
    phase: int = 0
    opened: int = 0
    operator_hold: bool = False
    conflict_hold: str | None = None
    """The message of the refusal that ended a conflict window; None while no conflict hold stands."""
    accepted: tuple[Accepted, ...] = ()
    resumed_at: datetime | None = None
    decided_at: datetime | None = None
    started_at: datetime | None = None
    """The instant at which the run first was running; None before that."""
    finished_at: datetime | None = None
    revision: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.phase <= self.opened:
            raise InvalidInput.at(f"run {self.id}", f"phase {self.phase} is not within 0 and opened {self.opened}")

    @property
    def standing(self) -> Standing:
        """How it stands."""
        return Standing(
            status=self.status,
            reason=self.status_reason,
            message=self.status_message,
            phase=self.phase,
            updated_at=self.decided_at,
            started_at=self.started_at,
            finished_at=self.finished_at,
        )

    def accepted_failures(self, gate: int, phase: int | None) -> int:
        """How many failures were accepted for this gate (and phase); 0 when none were."""
        return next((a.failures for a in self.accepted if (a.gate, a.phase) == (gate, phase)), 0)

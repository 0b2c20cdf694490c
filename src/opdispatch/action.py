"""Actions: the closed set of what a decision can do, and what each means for one run or target.

A *change* is durable and is applied with the others of its decision in one transaction; an *effect* is carried
out after the commit and is derived again from the durable state at the next tick, so none is lost with a
process.  ``changed_run`` and ``changed_target`` say what a change means; ``decide``, ``evolve`` and every store
use them, so there is one meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum, unique
from typing import Final, assert_never

from .command import Command, Reply
from .identity import RunId, TargetId, TaskId
from .observation import Observation
from .run import ENDING, Accepted, Run, RunChange, RunStatus, StatusReason, next_status
from .tally import Tally
from .target import Cancelling, Conflict, Stray, Target, TargetStatus
from .task import SubmissionRequest, TaskRef

# -- changes of the run --


@dataclass(frozen=True, slots=True, kw_only=True)
class StartRun:
    """Pending to running."""

    at: datetime
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseRun:
    """A hold stands: show the first one.  Also replaces reason and message of a paused run."""

    reason: StatusReason
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContinueRun:
    """No hold stands any more: paused to running."""

    at: datetime
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotateRun:
    """Say what the run waits for; nothing else changes."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetOperatorHold:
    """An operator paused the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetConflictHold:
    """A refusal came at or after the end of a target's conflict window."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseHolds:
    """A resume: both stored holds go, and every conflict window starts anew."""

    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AcceptFailures:
    """Accept what each tripped gate counted; replaces what was accepted for the same gate and phase."""

    accepted: tuple[Accepted, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPhase:
    """The pointer goes to the next phase, which is opened if it was not yet."""

    phase: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReturnToPhase:
    """The pointer moves back to the phase of a retried target; what is opened stays opened."""

    phase: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishRun:
    """A terminal status."""

    status: RunStatus
    at: datetime
    message: str


RunAction = (
    StartRun
    | PauseRun
    | ContinueRun
    | AnnotateRun
    | SetOperatorHold
    | SetConflictHold
    | ReleaseHolds
    | AcceptFailures
    | OpenPhase
    | ReturnToPhase
    | FinishRun
)

# -- changes of one target --


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimTarget:
    """Reserve for one submission; the fence rises by one."""

    target_id: TargetId
    lease_until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordTask:
    """The target is submitted: this is its task."""

    target_id: TargetId
    task_id: TaskId


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockTarget:
    """The rack was busy."""

    target_id: TargetId
    retry_at: datetime
    conflict: Conflict
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteTarget:
    """What is known besides the status; each field replaces what stood there."""

    target_id: TargetId
    message: str
    missing_since: datetime | None
    cancelling: Cancelling | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SettleTarget:
    """No work is left."""

    target_id: TargetId
    status: TargetStatus
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryTarget:
    """A settled target gets a new attempt."""

    target_id: TargetId


TargetAction = ClaimTarget | RecordTask | BlockTarget | NoteTarget | SettleTarget | RetryTarget

# -- changes of many targets at once, whatever their number --


@dataclass(frozen=True, slots=True, kw_only=True)
class RearmBlocked:
    """Every blocked target of the run may be tried at ``at``, its conflict history forgotten."""

    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class SkipUnstarted:
    """Every pending and blocked target of the run is skipped."""

    message: str


CohortAction = RearmBlocked | SkipUnstarted

# -- changes of strays --


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordStray:
    """A task that is not its target's came to light."""

    stray: Stray


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateStray:
    """What is known of a recorded stray now; ``stray.is_open`` false closes it."""

    stray: Stray


StrayAction = RecordStray | UpdateStray

# -- effects --


@dataclass(frozen=True, slots=True, kw_only=True)
class SubmitTask:
    """Call the task manager for a claim made in the same decision."""

    request: SubmissionRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelTask:
    """Ask the task manager to end a task."""

    ref: TaskRef


Change = RunAction | TargetAction | CohortAction | StrayAction
Effect = SubmitTask | CancelTask
Action = Change | Effect
EFFECTS: Final = (SubmitTask, CancelTask)
"""The types of ``Effect``, as a tuple: what is asked of every step is asked faster of one than of a union."""


@unique
class Wait(StrEnum):
    """What something is held back for: a closed list of codes."""

    OPERATOR = "operator"
    CONFLICT_WINDOW = "conflict_window"
    SAFETY_GATE = "safety_gate"
    PHASE_GATE = "phase_gate"
    QUOTA = "quota"
    CAPACITY = "capacity"
    CONFLICT = "conflict"
    ANSWER = "answer"
    IN_FLIGHT = "in_flight"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldBack:
    """Something that was not done, and why.  ``count`` is how many targets it holds (>= 0), ``until`` when it can
    end by itself, None when it needs an event or an operator."""

    wait: Wait
    message: str
    count: int
    until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One action and the reason for it."""

    action: Action
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the changes of a decision amount to, as it was worked out while the decision was made.

    It follows from the changes and the state, so it is no part of what a decision says; a store may use it instead of
    working it out again.  ``targets`` are those that change, in the order of their first change; ``moves`` is what to
    add to the counts of a phase, which may be below zero.
    """

    targets: tuple[Target, ...]
    moves: Mapping[int, Tally]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What is to be done to one run: ordered actions with reasons, what is held back, and when to look again.

    ``wake_at`` is the earliest instant at which the same run could have something new to decide; None means never,
    without an event.  ``observations`` are those of the state that were taken into account, in its order; the others
    changed nothing, and the same decision comes out without them.  ``command`` and ``reply`` are set when an
    operator's command was decided.  ``outcome`` may be None, and never differs from what the changes say.
    """

    run_id: RunId
    at: datetime
    steps: tuple[Step, ...]
    held_back: tuple[HeldBack, ...]
    wake_at: datetime | None
    observations: tuple[Observation, ...] = ()
    command: Command | None = None
    reply: Reply | None = None
    outcome: Outcome | None = field(default=None, repr=False, compare=False)
    changes: tuple[Change, ...] = field(init=False, repr=False, compare=False)
    """The durable actions, in order."""
    effects: tuple[Effect, ...] = field(init=False, repr=False, compare=False)
    """What to carry out after the commit, in order."""

    def __post_init__(self) -> None:
        # Sorted out once: whoever writes a decision asks for them again and again.
        changes: list[Change] = []
        effects: list[Effect] = []
        for step in self.steps:
            action = step.action
            if isinstance(action, EFFECTS):
                effects.append(action)
            else:
                changes.append(action)
        object.__setattr__(self, "changes", tuple(changes))
        object.__setattr__(self, "effects", tuple(effects))


def changed_run(run: Run, change: RunAction) -> Run:
    """The run after one change; raises RefusedTransition when its status does not allow it."""
    match change:
        case StartRun(at=at, message=message):
            return _running(run, RunChange.START, at, message)
        case ContinueRun(at=at, message=message):
            return _running(run, RunChange.CONTINUE, at, message)
        case PauseRun(reason=reason, message=message):
            status = next_status(run.id, run.status, RunChange.PAUSE)
            return replace(run, status=status, status_reason=reason, status_message=message)
        case AnnotateRun(message=message):
            return replace(run, status_message=message)
        case SetOperatorHold():
            return replace(run, operator_hold=True)
        case SetConflictHold(message=message):
            return replace(run, conflict_hold=message)
        case ReleaseHolds(at=at):
            return replace(run, operator_hold=False, conflict_hold=None, resumed_at=at)
        case AcceptFailures(accepted=accepted):
            replaced = {(a.gate, a.phase) for a in accepted}
            kept = tuple(a for a in run.accepted if (a.gate, a.phase) not in replaced)
            return replace(run, accepted=kept + accepted)
        case OpenPhase(phase=phase):
            return replace(run, phase=phase, opened=max(run.opened, phase))
        case ReturnToPhase(phase=phase):
            return replace(run, phase=phase)
        case FinishRun(status=ended, at=at, message=message):
            status = next_status(run.id, run.status, ENDING[ended])
            return replace(run, status=status, status_reason=StatusReason.NONE, status_message=message, finished_at=at)
        case _:
            assert_never(change)


def _running(run: Run, change: RunChange, at: datetime, message: str) -> Run:
    return replace(
        run,
        status=next_status(run.id, run.status, change),
        status_reason=StatusReason.NONE,
        status_message=message,
        started_at=run.started_at or at,
    )


def changed_target(target: Target, change: TargetAction) -> Target:
    """The target after one change; raises RefusedTransition when its status does not allow it."""
    match change:
        case ClaimTarget(lease_until=lease_until):
            return target.claimed(lease_until)
        case RecordTask(task_id=task_id):
            return target.submitted(task_id)
        case SettleTarget(status=status, message=message):
            return target.settled(status, message)
        case BlockTarget(retry_at=retry_at, conflict=conflict, message=message):
            return target.blocked(retry_at, conflict, message)
        case NoteTarget(message=message, missing_since=missing_since, cancelling=cancelling):
            return target.noted(message, missing_since, cancelling)
        case RetryTarget():
            return target.retried()
        case _:
            assert_never(change)

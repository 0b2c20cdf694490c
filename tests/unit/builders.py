"""Builders of runs, targets, states and observations, with defaults: a test shows only what it is about.

The targets of a state are numbered by their place from 0: number 3 is ``target_id(3)``, its rack ``r3``, and the task
that it was submitted as, unless told otherwise, ``task-3``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, TypeVar

from opdispatch.action import (
    CancelTask,
    Change,
    ClaimTarget,
    Decision,
    Effect,
    HeldBack,
    NoteTarget,
    PauseRun,
    SubmitTask,
    Wait,
)
from opdispatch.evolve import Record, new_record, whole, window
from opdispatch.identity import CommandId, TargetId, TaskId, run_id_of, target_id_of
from opdispatch.observation import (
    CancellationRefused,
    Observation,
    SubmissionAbsent,
    SubmissionAccepted,
    SubmissionConflicted,
    SubmissionRefused,
    SubmissionUnknown,
    TaskMissing,
    TaskObserved,
)
from opdispatch.policy.conflict import ConflictRetry
from opdispatch.policy.gates import FailureCountGate, FailureRateGate, Gate, GateScope
from opdispatch.run import Run, RunStatus, StatusReason
from opdispatch.state import Limits, RunState
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
    TargetStatus,
)
from opdispatch.task import TaskStatus
from tests.racks import rack, rack_id, rollout

T = TypeVar("T")

RUN_ID: Final = run_id_of(CommandId("create"))
NOW: Final = datetime(2031, 4, 2, 10, 0, tzinfo=UTC)
"""The clock of a state, unless told otherwise."""
LIMITS: Final = Limits()
POLL: Final = NOW + LIMITS.poll
CONFLICT: Final = ConflictRetry()


def at(seconds: float) -> datetime:
    """So many seconds after (or before) ``NOW``."""
    return NOW + timedelta(seconds=seconds)


def target_id(number: int = 0) -> TargetId:
    return target_id_of(RUN_ID, rack_id(number))


def task_id(number: int = 0) -> TaskId:
    return TaskId(f"task-{number}")


def _or(given: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    """What was given, and the defaults for the rest."""
    return defaults | given


# -- targets --


def a_target(number: int = 0, **fields: Any) -> Target:
    return Target(
        id=target_id(number),
        rack_id=rack_id(number),
        rack_name=f"r{number}",
        sequence=number,
        phase=fields.pop("phase", 0),
        components=rack(number).components,
        **fields,
    )


def pending(**fields: Any) -> Target:
    return a_target(state=Pending(), **fields)


def claimed(*, lease: float = 20, **fields: Any) -> Target:
    """Claimed once; its lease ends ``lease`` seconds after now (below 0: it is over)."""
    return a_target(state=Claimed(lease_until=at(lease)), **_or(fields, fence=1, message="claimed for submission"))


def blocked(*, retry: float = 15, since: float = -15, count: int = 1, delay: float = 30, **fields: Any) -> Target:
    conflict = Conflict(since=at(since), count=count, delay=timedelta(seconds=delay))
    return a_target(state=Blocked(retry_at=at(retry)), **_or(fields, fence=count, conflict=conflict, message="busy"))


def submitted(
    *, task: str = "", missing_since: float | None = None, cancelling: Cancelling | None = None, **fields: Any
) -> Target:
    since = None if missing_since is None else at(missing_since)
    state = Submitted(task_id=TaskId(task), missing_since=since, cancelling=cancelling)
    return a_target(state=state, **_or(fields, fence=1, message="submitted"))


def _settled(status: TargetStatus, fields: dict[str, Any]) -> Target:
    task = fields.pop("task", "")
    return a_target(state=Settled(status=status, task_id=task and TaskId(task)), **_or(fields, fence=1))


def completed(**fields: Any) -> Target:
    return _settled(TargetStatus.COMPLETED, fields)


def failed(**fields: Any) -> Target:
    return _settled(TargetStatus.FAILED, fields)


def terminated(**fields: Any) -> Target:
    return _settled(TargetStatus.TERMINATED, fields)


def skipped(**fields: Any) -> Target:
    return _settled(TargetStatus.SKIPPED, _or(fields, task=None, fence=0))


def cancelling(*, due: float, delay: float = 10) -> Cancelling:
    return Cancelling(due=at(due), delay=timedelta(seconds=delay))


def a_stray(task: str = "stray", *, target: int = 0, due: float = 5, delay: float = 10, **fields: Any) -> Stray:
    """An open stray whose next cancellation is due ``due`` seconds after now."""
    return Stray(
        task_id=TaskId(task), target_id=target_id(target), cancelling=cancelling(due=due, delay=delay), **fields
    )


def numbered(targets: Sequence[Target]) -> tuple[Target, ...]:
    """The same targets, each with the sequence, id, rack and task of its place."""
    return tuple(_placed(target, number) for number, target in enumerate(targets))


def _placed(target: Target, number: int) -> Target:
    state = target.state
    if isinstance(state, Submitted | Settled) and state.task_id == "":
        state = replace(state, task_id=task_id(number))
    return replace(
        target,
        id=target_id(number),
        rack_id=rack_id(number),
        rack_name=f"r{number}",
        sequence=number,
        components=rack(number).components,
        state=state,
    )


# -- runs and states --


def failure_count(threshold: int, scope: GateScope = GateScope.CURRENT_PHASE) -> FailureCountGate:
    return FailureCountGate(threshold_count=threshold, scope=scope)


def failure_rate(threshold: int, scope: GateScope = GateScope.CURRENT_PHASE) -> FailureRateGate:
    return FailureRateGate(threshold_percent=threshold, scope=scope)


def a_run(
    status: RunStatus = RunStatus.RUNNING,
    *,
    quota: int = 10,
    gates: tuple[Gate, ...] = (),
    auto_advance: bool = False,
    conflict: ConflictRetry = CONFLICT,
    **fields: Any,
) -> Run:
    configuration = replace(
        rollout(gates=gates, max_concurrent_targets=quota), auto_advance=auto_advance, conflict=conflict
    )
    fields = _or(fields, phases=1, created_at=at(-3600), opened=fields.get("phase", 0))
    if status is not RunStatus.PENDING:
        fields = _or(fields, started_at=at(-3000))
    if status.is_terminal:
        fields = _or(fields, finished_at=at(-60))
    return Run(id=RUN_ID, name="firmware", rollout=configuration, status=status, **fields)


def a_paused_run(reason: StatusReason, message: str = "", **fields: Any) -> Run:
    return a_run(RunStatus.PAUSED, status_reason=reason, status_message=message, **fields)


def a_record(
    *targets: Target,
    run: Run | None = None,
    strays: Sequence[Stray] = (),
    failed_before: Mapping[int, int] = MappingProxyType({}),
    **run_fields: Any,
) -> Record:
    """A record of these targets; ``failed_before`` are the retried failures of each phase."""
    placed = numbered(targets)
    phases = max((target.phase for target in placed), default=0) + 1
    base = a_run(**_or(run_fields, phases=phases)) if run is None else run
    made = new_record(base, placed)
    tallies = (
        replace(tally, failed_before=failed_before.get(phase, 0)) if phase in failed_before else tally
        for phase, tally in enumerate(made.phases)
    )
    return replace(
        made, phases=tuple(tallies), strays=MappingProxyType({stray.task_id: stray for stray in strays}), wake_at=NOW
    )


def a_state(
    *targets: Target,
    observations: Sequence[Observation] = (),
    named: Sequence[int] | None = None,
    limits: Limits = LIMITS,
    now: datetime = NOW,
    **record_fields: Any,
) -> RunState:
    """The window of a run that is running, has one phase per phase of its targets, and no gate, unless told otherwise.

    ``named`` are the numbers of the targets that a command names.
    """
    record = a_record(*targets, **record_fields)
    names = [target_id(number) for number in named or ()]
    return window(record, observations=observations, limits=limits, now=now, named=names)


def everything(record: Record, *observations: Observation, limits: Limits = LIMITS, now: datetime = NOW) -> RunState:
    """The state that holds the whole record."""
    return whole(record, observations=observations, limits=limits, now=now)


def a_whole(*targets: Target, observations: Sequence[Observation] = (), **record_fields: Any) -> RunState:
    """As ``a_state``, but the state that holds every target and stray."""
    return everything(a_record(*targets, **record_fields), *observations)


# -- observations --


def seen(
    number: int = 0,
    status: TaskStatus = TaskStatus.RUNNING,
    message: str = "Running",
    *,
    looked: float = 0,
    **more: Any,
) -> TaskObserved:
    task = TaskId(more.pop("task", task_id(number)))
    return TaskObserved(target_id=target_id(number), task_id=task, status=status, message=message, looked_at=at(looked))


def missing(number: int = 0, *, looked: float = 0, task: str = "") -> TaskMissing:
    return TaskMissing(target_id=target_id(number), task_id=TaskId(task or task_id(number)), looked_at=at(looked))


def accepted(number: int = 0, *, attempt: int = 1, fence: int = 1, task: str = "") -> SubmissionAccepted:
    return SubmissionAccepted(
        target_id=target_id(number), attempt=attempt, fence=fence, task_id=TaskId(task or task_id(number))
    )


def conflicted(number: int = 0, *, attempt: int = 1, fence: int = 1, message: str = "busy") -> SubmissionConflicted:
    return SubmissionConflicted(target_id=target_id(number), attempt=attempt, fence=fence, message=message)


def refused(number: int = 0, *, attempt: int = 1, fence: int = 1, message: str = "no such rule") -> SubmissionRefused:
    return SubmissionRefused(target_id=target_id(number), attempt=attempt, fence=fence, message=message)


def unknown(number: int = 0, *, attempt: int = 1, fence: int = 1, message: str = "timed out") -> SubmissionUnknown:
    return SubmissionUnknown(target_id=target_id(number), attempt=attempt, fence=fence, message=message)


def absent(
    number: int = 0, *, attempt: int = 1, fence: int = 1, barred: bool = False, looked: float = 0
) -> SubmissionAbsent:
    return SubmissionAbsent(
        target_id=target_id(number), attempt=attempt, fence=fence, barred=barred, looked_at=at(looked)
    )


def not_cancelled(number: int = 0, *, task: str = "", message: str = "not now") -> CancellationRefused:
    return CancellationRefused(target_id=target_id(number), task_id=TaskId(task or task_id(number)), message=message)


# -- what a decision says --


def all_of(decision: Decision, kind: type[T]) -> list[T]:
    """The actions of one kind, in order."""
    return [step.action for step in decision.steps if isinstance(step.action, kind)]


def the(decision: Decision, kind: type[T]) -> T:
    """The one action of this kind."""
    (action,) = all_of(decision, kind)
    return action


def number_of(target: TargetId) -> int:
    """The number of a target, by its id."""
    return next(number for number in range(1000) if target_id(number) == target)


def claims(decision: Decision) -> list[int]:
    """The numbers of the targets that are claimed, in order."""
    return [number_of(claim.target_id) for claim in all_of(decision, ClaimTarget)]


def submissions(decision: Decision) -> list[int]:
    """The numbers of the targets that a call is made for, in order."""
    return [number_of(submit.request.target_id) for submit in all_of(decision, SubmitTask)]


def cancels(decision: Decision) -> list[TaskId]:
    """The tasks that are asked to end, in order."""
    return [cancel.ref.task_id for cancel in all_of(decision, CancelTask)]


def pause(decision: Decision) -> PauseRun:
    return the(decision, PauseRun)


def note(decision: Decision) -> NoteTarget:
    return the(decision, NoteTarget)


def waits(decision: Decision) -> list[Wait]:
    """The codes of what is held back, in order."""
    return [held.wait for held in decision.held_back]


def held(decision: Decision, wait: Wait) -> HeldBack:
    """The one thing that is held back for this."""
    (found,) = [held for held in decision.held_back if held.wait is wait]
    return found


def actions(decision: Decision) -> list[Change | Effect]:
    return [step.action for step in decision.steps]

"""Folding: what each observation means for the targets and strays of a run.

The first step of every decision.  An observation that is late, doubled or about something that is settled
changes nothing: that silence is meant, and each case says so.  The rules:

* An acceptance of the current attempt is adopted whatever its fence, unless the target is settled; any other
  task is a stray.
* A conflict, a refusal, an unknown and an absence count only for the current fence of a claimed target.
* The end of a task is absorbing; a look that misses a task counts only when it was made after the last decision.
* In a run that has ended, a definite no means that the target is skipped.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final, assert_never

from .action import BlockTarget, NoteTarget, RecordStray, RecordTask, SetConflictHold, SettleTarget, UpdateStray
from .draft import Draft
from .identity import TargetId, TaskId
from .observation import (
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
from .policy.conflict import spelled
from .target import Blocked, Cancelling, Claimed, Stray, Submitted, Target, TargetStatus
from .task import TaskStatus

OUTCOMES: Final = {
    TaskStatus.COMPLETED: TargetStatus.COMPLETED,
    TaskStatus.FAILED: TargetStatus.FAILED,
    TaskStatus.TERMINATED: TargetStatus.TERMINATED,
}
"""The outcome of a target by the status of its task; every other status means that it goes on."""


def fold(draft: Draft, observation: Observation) -> None:
    """Take one observation into the draft."""
    match observation:
        case TaskObserved():
            _task_observed(draft, observation)
        case TaskMissing():
            _task_missing(draft, observation)
        case SubmissionAccepted():
            _accepted(draft, observation)
        case SubmissionConflicted():
            _conflicted(draft, observation)
        case SubmissionRefused():
            _refused(draft, observation)
        case SubmissionUnknown():
            _unknown(draft, observation)
        case SubmissionAbsent():
            _absent(draft, observation)
        case CancellationRefused():
            _cancellation_refused(draft, observation)
        case _:
            assert_never(observation)


def claim_of(
    draft: Draft, answer: SubmissionConflicted | SubmissionRefused | SubmissionUnknown | SubmissionAbsent
) -> Target | None:
    """The claimed target that this answer is for; None when it is an answer to an older claim, or comes late."""
    target = draft.target(answer.target_id)
    if target is None or not isinstance(target.state, Claimed):
        return None
    if (answer.attempt, answer.fence) != (target.attempt, target.fence):
        return None
    if isinstance(answer, SubmissionAbsent) and answer.looked_at < target.state.lease_until:
        # The look came too early: the request may still take effect after it.
        return None
    return target


def _submitted(draft: Draft, target_id: TargetId, task_id: TaskId) -> tuple[Target, Submitted] | None:
    """The target whose current task this is, while it is submitted."""
    target = draft.target(target_id)
    if target is not None and isinstance(target.state, Submitted) and target.state.task_id == task_id:
        return target, target.state
    return None


def _open_stray(draft: Draft, task_id: TaskId) -> Stray | None:
    stray = draft.stray(task_id)
    return stray if stray is not None and stray.is_open else None


def _still_missing(missing_since: datetime | None, looked_at: datetime) -> datetime | None:
    """A sighting ends the series of looks that missed a task, unless it was made before the series began."""
    return missing_since if missing_since is not None and looked_at < missing_since else None


def _task_observed(draft: Draft, seen: TaskObserved) -> None:
    outcome = OUTCOMES.get(seen.status)
    submitted = _submitted(draft, seen.target_id, seen.task_id)
    if submitted is not None:
        target, state = submitted
        if outcome is not None:
            change = SettleTarget(target_id=target.id, status=outcome, message=seen.message)
            draft.change(change, f"its task is {seen.status}")
            return
        missing_since = _still_missing(state.missing_since, seen.looked_at)
        if (seen.message, missing_since) != (target.message, state.missing_since):
            note = NoteTarget(
                target_id=target.id, message=seen.message, missing_since=missing_since, cancelling=state.cancelling
            )
            draft.change(note, f"its task is {seen.status}")
        return
    stray = _open_stray(draft, seen.task_id)
    if stray is None:
        return
    if outcome is not None:
        closed = replace(stray, is_open=False, message=seen.message)
        draft.change(UpdateStray(stray=closed), f"the stray is {seen.status}")
        return
    missing_since = _still_missing(stray.missing_since, seen.looked_at)
    if missing_since != stray.missing_since:
        draft.change(UpdateStray(stray=replace(stray, missing_since=missing_since)), "the stray was seen again")


def _task_missing(draft: Draft, missing: TaskMissing) -> None:
    decided_at = draft.state.run.decided_at
    if decided_at is not None and missing.looked_at < decided_at:
        # The look may be older than the task's record.
        return
    grace = draft.state.limits.missing_grace
    submitted = _submitted(draft, missing.target_id, missing.task_id)
    if submitted is not None:
        target, state = submitted
        if state.missing_since is None:
            message = (
                f"the task manager does not know task {missing.task_id}; it fails the target if it still does not "
                f"after {spelled(grace)}"
            )
            note = NoteTarget(
                target_id=target.id,
                message=message,
                missing_since=missing.looked_at,
                cancelling=state.cancelling,
            )
            draft.change(note, "its task is missing at a first look")
        elif missing.looked_at - state.missing_since >= grace:
            message = f"lost: the task manager has not known task {missing.task_id} for {spelled(grace)}"
            change = SettleTarget(target_id=target.id, status=TargetStatus.FAILED, message=message)
            draft.change(change, "its task is missing at two looks a grace time apart")
        return
    stray = _open_stray(draft, missing.task_id)
    if stray is None:
        return
    if stray.missing_since is None:
        noted = replace(stray, missing_since=missing.looked_at)
        draft.change(UpdateStray(stray=noted), "the stray is missing at a first look")
    elif missing.looked_at - stray.missing_since >= grace:
        gone = replace(stray, is_open=False, message="lost: the task manager does not know it any more")
        draft.change(UpdateStray(stray=gone), "the stray is missing at two looks a grace time apart")


def _accepted(draft: Draft, accepted: SubmissionAccepted) -> None:
    target = draft.target(accepted.target_id)
    if target is None or draft.stray(accepted.task_id) is not None or target.task_id == accepted.task_id:
        return
    if accepted.attempt == target.attempt and isinstance(target.state, (Claimed, Blocked)):
        change = RecordTask(target_id=target.id, task_id=accepted.task_id)
        draft.change(change, "its submission was accepted")
        return
    record_stray(
        draft,
        target,
        accepted.task_id,
        f"it belongs to attempt {accepted.attempt}; the target is {target.status} at attempt {target.attempt}",
    )


def record_stray(draft: Draft, target: Target, task_id: TaskId, because: str) -> None:
    """A task that is not its target's: on record, and due to be cancelled at once."""
    cancelling = Cancelling(due=draft.now, delay=draft.state.limits.cancel_delay)
    stray = Stray(task_id=task_id, target_id=target.id, cancelling=cancelling, message=because)
    draft.change(RecordStray(stray=stray), because)


def _skip(draft: Draft, target: Target, why: str) -> None:
    message = f"skipped: the run had ended before it could start ({why})"
    change = SettleTarget(target_id=target.id, status=TargetStatus.SKIPPED, message=message)
    draft.change(change, "the run has ended, and nothing was begun for its claim")


def _conflicted(draft: Draft, conflicted: SubmissionConflicted) -> None:
    target = claim_of(draft, conflicted)
    if target is None:
        return
    if draft.run.status.is_terminal:
        _skip(draft, target, conflicted.message)
        return
    policy = draft.run.rollout.conflict
    conflict = policy.after_refusal(target.conflict, draft.now)
    window_end = policy.window_end(conflict, draft.run.resumed_at)
    retry_at = draft.now + conflict.delay
    if draft.now < window_end:
        retry_at = min(retry_at, window_end)
    elif draft.run.conflict_hold is None:
        message = (
            f"target {target.id} blocked by rack conflict for {spelled(policy.window)} "
            f"(rack {target.rack_name}, {conflict.count} refusals): {conflicted.message}"
        )
        draft.change(SetConflictHold(message=message), "a refusal came at or after the end of the conflict window")
    block = BlockTarget(target_id=target.id, retry_at=retry_at, conflict=conflict, message=conflicted.message)
    draft.change(block, f"its rack is busy, refusal {conflict.count}")


def _refused(draft: Draft, refused: SubmissionRefused) -> None:
    target = claim_of(draft, refused)
    if target is None:
        return
    if draft.run.status.is_terminal:
        _skip(draft, target, refused.message)
        return
    change = SettleTarget(target_id=target.id, status=TargetStatus.FAILED, message=refused.message)
    draft.change(change, "the task manager refused it for good")


def _unknown(draft: Draft, unknown: SubmissionUnknown) -> None:
    target = claim_of(draft, unknown)
    if target is None:
        return
    message = f"no answer to the submission ({unknown.message}); its key is looked up when the lease ends"
    if message != target.message:
        note = NoteTarget(target_id=target.id, message=message, missing_since=None, cancelling=None)
        draft.change(note, "nobody knows whether its task began")


def _absent(draft: Draft, absent: SubmissionAbsent) -> None:
    target = claim_of(draft, absent)
    if target is not None and draft.run.status.is_terminal and absent.barred:
        _skip(draft, target, "no task was begun, and none can begin any more")


def _cancellation_refused(draft: Draft, refused: CancellationRefused) -> None:
    message = f"cancellation refused: {refused.message}"
    submitted = _submitted(draft, refused.target_id, refused.task_id)
    if submitted is not None:
        target, state = submitted
        if message != target.message:
            note = NoteTarget(
                target_id=target.id,
                message=message,
                missing_since=state.missing_since,
                cancelling=state.cancelling,
            )
            draft.change(note, "its task would not be cancelled")
        return
    stray = _open_stray(draft, refused.task_id)
    if stray is not None and message != stray.message:
        draft.change(UpdateStray(stray=replace(stray, message=message)), "the stray would not be cancelled")


def doubled(delay: timedelta, longest: timedelta) -> timedelta:
    """The next wait of a backoff."""
    return min(delay * 2, longest)
